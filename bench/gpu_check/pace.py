"""How fast an engine turns batches over, through the calls that a worker makes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace_engines.engine import DeviceTimes, Engine

_ROUNDS: Final = 3
_FEWEST: Final = 3
_MOST: Final = 2000
_SHARED: Final = 15
"""Batches whose parts are measured."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What the parts of a batch took on the device, in microseconds."""

    copy_in: float
    compute: float
    copy_out: float

    @property
    def copies(self) -> float:
        """Which part of the whole is copying, 0 to 1."""
        whole = self.copy_in + self.compute + self.copy_out
        return (self.copy_in + self.copy_out) / whole if whole else 0.0


def batch_seconds(engine: Engine, rows: int, in_flight: int, seconds: float) -> float:
    """Return the seconds from one batch to the next, with so many in flight; the inputs stay as they are.

    The median of three rounds, which take about `seconds` together and follow a warm-up; of batches that
    take longer, the mean of a few.
    """
    turn_over(engine, rows, in_flight, in_flight + 1)
    once = timed(lambda: turn_over(engine, rows, in_flight, _FEWEST)) / _FEWEST
    if once * _FEWEST >= seconds:
        return once
    count = min(_MOST, max(_FEWEST, round(seconds / _ROUNDS / max(once, 1e-7))))
    return statistics.median(
        timed(lambda: turn_over(engine, rows, in_flight, count)) / count for _ in range(_ROUNDS)
    )


def turn_over(engine: Engine, rows: int, in_flight: int, batches: int) -> None:
    """Execute batches with so many in flight as far as there are so many."""
    begun = 0
    for ended in range(batches):
        while begun < min(batches, ended + in_flight):
            engine.submit(begun % in_flight, rows)
            begun += 1
        engine.wait(ended % in_flight)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds the work took."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def shares(engine: Engine, rows: int, seconds: float) -> Shares | None:
    """Return the medians over some batches, one at a time; None where the engine does not tell.

    Of batches that take so long that they do not end in `seconds`, over fewer.
    """
    told: list[DeviceTimes] = []
    end = time.perf_counter() + seconds
    while len(told) < _FEWEST or (len(told) < _SHARED and time.perf_counter() < end):
        turn_over(engine, rows, 1, 1)
        if engine.device is None or (times := engine.device.times(0)) is None:
            return None
        told.append(times)
    return Shares(
        statistics.median(one.copy_in_ns for one in told) / 1000,
        statistics.median(one.compute_ns for one in told) / 1000,
        statistics.median(one.copy_out_ns for one in told) / 1000,
    )
