"""One plan: does it load, does it answer as ONNX Runtime does in each batch size, and do CUDA graphs hold it.

One that does not load is built anew on this machine, which tells whether the library runs here at all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.gpu_check import opening, stages
from bench.gpu_check.accuracy import compare, is_right, told, worst_row_db
from bench.gpu_check.building import build
from bench.gpu_check.cases import Case, find
from bench.gpu_check.graphs import NotCapturedError, said
from bench.gpu_check.opening import Observed
from bench.gpu_check.record import Cell, Record
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import ANSWERS
from headrace_engines import trial
from headrace_engines.declaration import THREADS, Declaration
from headrace_engines.engine import Engine
from headrace_engines.runtime.cuda.gpu import Gpu
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_LARGE_ROW_BYTES: Final = 1 << 17
_COMPARED, _COMPARED_LARGE = 256, 32
"""Rows; ONNX Runtime takes a tenth of a second for each large one."""
_REFERENCE_BATCH: Final = 32
_REFERENCE_THREADS: Final = "8"

Rows = NDArray[np.float32]


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the tables ANSWERS and OPENING with what comes of the plan of the case `subject`."""
    case = find(setting, subject)
    with opening.observed(setting) as (gpu, driver):
        with record.step("the plan as it came"):
            judge(case, subject, opening.plan, gpu, driver, setting, record)
            return
        case = build(case, setting)
        record.fact(f"{subject} was built here", True)
        judge(case, subject, opening.plan, gpu, driver, setting, record)


def judge(
    case: Case,
    name: str,
    opens: stages.Opens,
    gpu: Gpu,
    driver: Observed | None,
    setting: Setting,
    record: Record,
) -> None:
    """Fill the tables with what comes of an engine, which stands in them under `name`.

    `driver` tells of its graphs, where it is to have any. What goes wrong with large batches is noted; raises
    what `opens` does with a few rows.
    """
    rows = case.rows(_COMPARED_LARGE if case.rows(1).nbytes > _LARGE_ROW_BYTES else _COMPARED)
    expected = _expected(case, rows)

    def judged(sizes: Sequence[int]) -> None:
        with (
            said() as warnings,
            stages.opened(case, name, opens, gpu, setting, record, tuple(sizes)) as (engine, held),
        ):
            captured = _row(engine, name, held, rows, expected, driver, record)
        if driver and not captured:
            with record.step(f"CUDA graphs, to {held[-1]} rows"):
                raise NotCapturedError(len(held), warnings)

    judged(stages.few(setting))
    if large := stages.many(setting):
        with record.step(f"batches to {large[-1]} rows"):
            judged(large)


def _row(
    engine: Engine,
    name: str,
    sizes: Sequence[int],
    rows: Rows,
    expected: Rows,
    driver: Observed | None,
    record: Record,
) -> int:
    """Judge the answers in batches of each size; return how many sizes were launched as graphs."""
    wrong, captured, worst = [], 0, [math.inf] * 3
    for size in sizes:
        before = driver.launched if driver else 0
        answers, wanted = _in_batches(engine, rows, expected, size)
        captured += driver is not None and driver.launched > before
        found = compare(answers, wanted)
        if not is_right(found):
            wrong.append(size)
        figures = (found.agreement, found.sqnr_db, worst_row_db(answers, wanted))
        worst = [min(pair, key=_nan_first) for pair in zip(worst, figures, strict=True)]
    cells: dict[str, Cell] = {
        "wrong sizes": " ".join(map(str, wrong)),
        "top-1": told(worst[0], 4),
        "SQNR dB": told(worst[1], 1),
        "worst row dB": told(worst[2], 1),
        "graphs": f"{captured} of {len(sizes)}" if driver else "",
    }
    batches = f"{sizes[0]} to {sizes[-1]}"
    record.row(ANSWERS, model=name, batches=batches, right=not wrong, rows=len(rows), **cells)
    return captured


def _nan_first(figure: float) -> float:
    return -math.inf if math.isnan(figure) else figure


def _in_batches(engine: Engine, rows: Rows, expected: Rows, size: int) -> tuple[Rows, Rows]:
    """Return answers to all rows in batches of this size, which has kernels and a graph of its own.

    With what was expected; where the batch is larger than all rows, they come again.
    """
    again = np.arange(max(len(rows), size)) % len(rows)
    parts = np.split(again, range(size, len(again), size))
    return np.concatenate([engine.run([rows[part]])[0] for part in parts]), expected[again]


def _expected(case: Case, rows: Rows) -> Rows:
    """Return what ONNX Runtime answers on the CPU."""
    with contextlib.closing(
        OnnxRuntimeEngine(
            case.folder / case.onnx.file,
            max_batch_size=_REFERENCE_BATCH,
            declaration=Declaration(parameters={THREADS: _REFERENCE_THREADS}),
            fuses=False,
        )
    ) as reference:
        answers: Rows = trial.answers(reference, {reference.spec.inputs[0].name: rows})[0]
        return answers
