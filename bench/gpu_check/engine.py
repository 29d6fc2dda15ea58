"""One plan: does it load, does it answer as ONNX Runtime does, and how fast is it.

One that does not load is built anew on this machine, which tells whether the library runs here at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.gpu_check import opening
from bench.gpu_check.accuracy import compare
from bench.gpu_check.building import build
from bench.gpu_check.cases import Case, find
from bench.gpu_check.pace import batch_seconds, shares
from bench.gpu_check.record import Cell, Record
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import ANSWERS, ENGINE
from headrace_engines import trial
from headrace_engines.declaration import THREADS, Declaration
from headrace_engines.engine import Engine
from headrace_engines.runtime.cuda.gpu import Gpu
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_SHARE_BATCHES: Final = 15
_LARGE_ROW_BYTES: Final = 1 << 17
_COMPARED, _COMPARED_LARGE = 256, 32
"""Rows; ONNX Runtime takes a tenth of a second for each large one."""
_REFERENCE_BATCH: Final = 32
_REFERENCE_THREADS: Final = "8"

Opens = Callable[[Case, Gpu, int, Setting], Engine]


@dataclass(frozen=True, slots=True)
class Loading:
    """What it took to open an engine: for the first time, and when what was compiled for it had been kept."""

    seconds: float
    again_seconds: float
    gpu_bytes: int


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the tables ANSWERS and ENGINE with what comes of the plan of the case `subject`."""
    case = find(setting, subject)
    with opening.shared(setting) as gpu:
        with record.step("the plan as it came"):
            tried(case, subject, opening.plan, gpu, setting, record)
            return
        case = build(case, setting)
        tried(case, f"{subject}, built here", opening.plan, gpu, setting, record)


def tried(case: Case, name: str, opens: Opens, gpu: Gpu, setting: Setting, record: Record) -> None:
    """Fill the tables with what comes of an engine, which stands in them under `name`."""
    first_seconds, _, first = _opened(case, opens, gpu, setting)
    first.close()
    seconds, gpu_bytes, engine = _opened(case, opens, gpu, setting)
    with contextlib.closing(engine):
        with record.step("comparing"):
            loading = Loading(first_seconds, seconds, gpu_bytes)
            _answers(case, name, engine, loading, setting.batches, record)
        for rows in setting.batches:
            with record.step(f"batches of {rows}"):
                record.row(ENGINE, model=name, rows=rows, **speed(engine, rows, setting.seconds))


def _opened(case: Case, opens: Opens, gpu: Gpu, setting: Setting) -> tuple[float, int, Engine]:
    """Open an engine; return the seconds and the GPU's memory that it took, and itself."""
    free_bytes, begun = _free_bytes(gpu), time.perf_counter()
    engine = opens(case, gpu, setting.batches[-1], setting)
    return time.perf_counter() - begun, free_bytes - _free_bytes(gpu), engine


def _free_bytes(gpu: Gpu) -> int:
    with gpu.use(gpu.generation) as driver:
        return driver.free_bytes()


def _answers(
    case: Case, name: str, engine: Engine, loading: Loading, batches: Sequence[int], record: Record
) -> None:
    (tensor,) = engine.spec.inputs
    rows = case.rows(_COMPARED_LARGE if tensor.row_bytes > _LARGE_ROW_BYTES else _COMPARED)
    expected = _expected(case, rows)
    (answers,) = trial.answers(engine, {tensor.name: rows})
    found = compare(answers, expected)
    sizes = [size for size in batches if size <= len(rows)]
    wrong = [size for size in sizes if not _is_right_alone(engine, rows[:size], expected[:size])]
    figures: dict[str, Cell] = {
        "wrong sizes": " ".join(map(str, wrong)),
        "top-1": round(found.top1, 4),
        "SQNR dB": round(found.sqnr_db, 1),
        "worst row dB": round(found.worst_row_db, 1),
        "load s": round(loading.seconds, 2),
        "again s": round(loading.again_seconds, 2),
        "GPU MiB": round(loading.gpu_bytes / 2**20, 1),
    }
    record.row(ANSWERS, model=name, right=found.is_right and not wrong, rows=len(rows), **figures)


def _expected(case: Case, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what ONNX Runtime answers on the CPU."""
    with contextlib.closing(
        OnnxRuntimeEngine(
            case.folder / case.onnx.file,
            max_batch_size=_REFERENCE_BATCH,
            declaration=Declaration(parameters={THREADS: _REFERENCE_THREADS}),
            fuses=False,
        )
    ) as reference:
        answers: NDArray[np.float32] = trial.answers(reference, {reference.spec.inputs[0].name: rows})[0]
        return answers


def _is_right_alone(engine: Engine, rows: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Whether a batch of these rows alone is answered rightly: each size has kernels and a graph."""
    (answers,) = engine.run([rows])
    return compare(answers, expected).is_right


def speed(engine: Engine, rows: int, seconds: float) -> dict[str, Cell]:
    """Return what a batch of so many rows takes, alone and with others in flight, and its parts."""
    alone = batch_seconds(engine, rows, 1, seconds)
    together = batch_seconds(engine, rows, engine.slots, seconds)
    cells: dict[str, Cell] = {
        "ms": round(alone * 1000, 4),
        "rows/s": round(rows / alone),
        "rows/s, 2 in flight": round(rows / together),
    }
    if (parts := shares(engine, rows, _SHARE_BATCHES)) is not None:
        cells["in µs"] = round(parts.copy_in, 1)
        cells["compute µs"] = round(parts.compute, 1)
        cells["out µs"] = round(parts.copy_out, 1)
        cells["copies %"] = round(100 * parts.copies, 1)
    return cells
