"""How fast one plan is by itself, in each batch size."""

from __future__ import annotations

import time
from typing import Final

from bench.gpu_check import opening, stages
from bench.gpu_check.cases import Case, find
from bench.gpu_check.pace import batch_seconds, shares
from bench.gpu_check.record import Cell, Record
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import ENGINE
from headrace_engines.engine import Engine
from headrace_engines.runtime.cuda.gpu import Gpu

_FIGURES: Final = 3
"""Of a row, each of which is measured for its time at least."""


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the tables ENGINE and OPENING with what comes of the plan of the case `subject`."""
    with opening.shared(setting) as gpu:
        speeds(find(setting, subject), subject, opening.plan, gpu, setting, record)


def speeds(case: Case, name: str, opens: stages.Opens, gpu: Gpu, setting: Setting, record: Record) -> None:
    """Fill the tables with what comes of an engine, which stands in them under `name`."""
    for sizes in filter(None, (stages.few(setting), stages.many(setting))):
        with (
            record.step(f"batches to {sizes[-1]} rows"),
            stages.opened(case, name, opens, gpu, setting, record, sizes) as (engine, held),
        ):
            _rows(engine, name, held, setting, record)


def _rows(engine: Engine, name: str, sizes: stages.Sizes, setting: Setting, record: Record) -> None:
    took = _FIGURES * setting.seconds
    for rows in sizes:
        with record.step(f"batches of {rows}"):
            setting.check_time(took)
            begun = time.perf_counter()
            record.row(ENGINE, model=name, rows=rows, **speed(engine, rows, setting.seconds))
            took = time.perf_counter() - begun


def speed(engine: Engine, rows: int, seconds: float) -> dict[str, Cell]:
    """Return what a batch of so many rows takes, alone and with others in flight, and its parts."""
    alone = batch_seconds(engine, rows, 1, seconds)
    together = batch_seconds(engine, rows, engine.slots, seconds)
    cells: dict[str, Cell] = {
        "ms": round(alone * 1000, 4),
        "rows/s": round(rows / alone),
        "rows/s, 2 in flight": round(rows / together),
    }
    executed = min((size for size in engine.spec.batch_sizes if size >= rows), default=rows)
    if executed != rows:  # there was no memory for more sizes
        cells["padded to"] = executed
    if (parts := shares(engine, rows, seconds)) is not None:
        cells["in µs"] = round(parts.copy_in, 1)
        cells["compute µs"] = round(parts.compute, 1)
        cells["out µs"] = round(parts.copy_out, 1)
        cells["copies %"] = round(100 * parts.copies, 1)
    return cells
