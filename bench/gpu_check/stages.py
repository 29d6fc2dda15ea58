"""Opens a case for a few rows, and then for as many as the GPU and the time hold.

So a GPU that is small, or slow to compile for, loses the large batches of a case and none of the others. The
parts that come later open it for no more than that.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench.gpu_check.cases import Case
from bench.gpu_check.record import Record
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import OPENING
from headrace_engines.engine import Engine
from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.cuda.gpu import Gpu

_FEW: Final = 32
_FOLDER: Final = "largest"

Opens = Callable[[Case, Gpu, int, Setting], Engine]
Sizes = tuple[int, ...]


def few(setting: Setting) -> Sizes:
    """Return the batch sizes that are tried first."""
    return tuple(size for size in setting.batches if size <= _FEW) or setting.batches[:1]


def many(setting: Setting) -> Sizes:
    """Return the others."""
    return setting.batches[len(few(setting)) :]


@contextlib.contextmanager
def opened(
    case: Case, name: str, opens: Opens, gpu: Gpu, setting: Setting, record: Record, sizes: Sizes
) -> Iterator[tuple[Engine, Sizes]]:
    """Open a case for these batch sizes, or for the first of them that the memory holds.

    What that took stands in the table OPENING. Raises what `opens` does, MemoryExhausted only for the least.
    """
    engine, held = _opened(case, name, opens, gpu, setting, record, sizes)
    with contextlib.closing(engine):
        _file(setting, name).parent.mkdir(parents=True, exist_ok=True)
        _file(setting, name).write_text(str(held[-1]))
        yield engine, held


def largest(setting: Setting, name: str) -> int:
    """Return the largest batch that a case was last opened for in this run; of others, the largest of all."""
    try:
        return int(_file(setting, name).read_text())
    except FileNotFoundError:
        return setting.batches[-1]


def forget(setting: Setting) -> None:
    """Let another run begin, which may have another GPU."""
    shutil.rmtree(setting.work / _FOLDER, ignore_errors=True)


def _opened(
    case: Case, name: str, opens: Opens, gpu: Gpu, setting: Setting, record: Record, sizes: Sizes
) -> tuple[Engine, Sizes]:
    free_bytes, begun = _free_bytes(gpu), time.perf_counter()
    try:
        engine = opens(case, gpu, sizes[-1], setting)
    except MemoryExhausted as error:
        record.row(OPENING, model=name, rows=sizes[-1], refused=str(error))
        if not sizes[:-1]:
            raise
        smaller = sizes[:-1]
    else:
        took = time.perf_counter() - begun
        mib = (free_bytes - _free_bytes(gpu)) / 2**20
        record.row(OPENING, model=name, rows=sizes[-1], s=round(took, 2), **{"GPU MiB": round(mib, 1)})
        return engine, sizes
    return _opened(case, name, opens, gpu, setting, record, smaller)


def _free_bytes(gpu: Gpu) -> int:
    with gpu.use(gpu.generation) as driver:
        return driver.free_bytes()


def _file(setting: Setting, name: str) -> Path:
    return setting.work / _FOLDER / name.replace("/", "-")
