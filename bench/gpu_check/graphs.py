"""CUDA graphs on and off: what launching one of them saves over launching kernel by kernel."""

from __future__ import annotations

import contextlib

from bench.gpu_check import opening
from bench.gpu_check.cases import find
from bench.gpu_check.pace import batch_seconds
from bench.gpu_check.record import Record
from bench.gpu_check.setting import Setting


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the table "graphs" with what comes of the case `subject`."""
    case = find(setting, subject)
    found: dict[int, list[float]] = {rows: [] for rows in setting.batches}
    for opened in (opening.shared, opening.without_graphs):
        with (
            opened(setting) as gpu,
            contextlib.closing(opening.plan(case, gpu, setting.batches[-1], setting)) as engine,
        ):
            for rows, milliseconds in found.items():
                milliseconds.append(round(1000 * batch_seconds(engine, rows, 1, setting.seconds), 4))
    for rows, (with_graphs, without) in found.items():
        record.row(
            "graphs, ms a batch", model=case.name, rows=rows, **{"with": with_graphs, "without": without}
        )
