"""CUDA graphs on and off: what launching one of them saves over launching kernel by kernel."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from bench.gpu_check import opening, stages
from bench.gpu_check.cases import Case, find
from bench.gpu_check.pace import batch_seconds
from bench.gpu_check.record import Record
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import GRAPHS


class NotCapturedError(Exception):
    """Graphs were asked for, and the engine executes kernel by kernel."""

    def __init__(self, sizes: int, warnings: Sequence[str]) -> None:
        """`warnings` are what the engine said while it was opened."""
        super().__init__(f"0 of {sizes} batch sizes captured: {'; '.join(warnings) or 'nothing was said'}")


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the table GRAPHS with what comes of the case `subject`."""
    case = find(setting, subject)
    for captures in (True, False):
        with record.step(f"graphs {'on' if captures else 'off'}"):
            _measured(case, captures, setting, record)


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """Yield what engines warn of while the block is executed."""
    warnings = _Warnings()
    logger = logging.getLogger("headrace_engines")
    logger.addHandler(warnings)
    try:
        yield warnings.texts
    finally:
        logger.removeHandler(warnings)


class _Warnings(logging.Handler):
    """Keeps the texts."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _measured(case: Case, captures: bool, setting: Setting, record: Record) -> None:
    sizes = [rows for rows in setting.batches if rows <= stages.largest(setting, case.name)]
    captured = 0
    with (
        opening.observed(setting, captures=captures) as (gpu, driver),
        said() as warnings,
        contextlib.closing(opening.plan(case, gpu, sizes[-1], setting)) as engine,
    ):
        for rows in sizes:
            setting.check_time(setting.seconds)
            before = driver.launched
            milliseconds = round(1000 * batch_seconds(engine, rows, 1, setting.seconds), 4)
            is_captured = driver.launched > before
            captured += is_captured
            record.row(
                GRAPHS,
                model=case.name,
                rows=rows,
                graphs="on" if captures else "off",
                captured=is_captured,
                ms=milliseconds,
            )
    if captures and not captured:
        raise NotCapturedError(len(sizes), warnings)
