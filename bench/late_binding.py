"""What it gains to take the next batch late, on an engine whose batches take a time that is set. A program.

    python -m bench.late_binding

The engine computes nothing. It has two slots, one stream that computes batch after batch, and a copy to the
device that goes on beside it, all on a clock that is slept by. Requests of one row come as they like
(Poisson), each timed from when it was due. Both ways of taking batches are measured in turns; medians are
shown.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from headrace_engines.engine import DeviceTimes
from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_server.core.device_worker import DeviceWorker
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Admitted, Request, Terms, Work
from headrace_server.errors import InferenceError

_ROW_FLOATS: Final = 100
_ADMITTED: Final = Admitted(1, (bytes(4 * _ROW_FLOATS),), None, 4 * _ROW_FLOATS, (0,), Terms())
_REQUEST: Final = Request("m", "", "", ())
_PATIENCE_SECONDS: Final = 60.0


class Calibration(NamedTuple):
    """What a batch takes: seconds for each batch and for each row, and what copying a row takes."""

    batch_seconds: float
    row_seconds: float
    copy_seconds: float
    largest: int

    def compute_seconds(self, rows: int) -> float:
        """Return what computing so many rows takes."""
        return self.batch_seconds + rows * self.row_seconds

    @property
    def capacity(self) -> float:
        """Rows a second in the largest batches."""
        return self.largest / self.compute_seconds(self.largest)


class CalibratedEngine:
    """An engine on a device that takes its time, and is its own device side."""

    platform = "calibrated"
    slots = 2
    computes_on_caller = False
    gpu = 0

    def __init__(self, calibration: Calibration) -> None:
        row = TensorSpec("x", np.dtype(np.float32), (_ROW_FLOATS,))
        self.spec = ModelSpec((row,), (replace(row, name="y"),), calibration.largest)
        self.device = self
        self._calibration = calibration
        self._arrays = [
            (np.zeros((calibration.largest, _ROW_FLOATS), np.float32),) for _ in range(self.slots)
        ]
        self._batches: list[tuple[int, float, DeviceTimes]] = [(0, 0.0, DeviceTimes(0, 0, 0))] * self.slots
        self._computed_at = 0.0

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return the slot's rows."""
        return self._arrays[slot]

    def submit(self, slot: int, rows: int) -> None:
        """Note when the batch will have been computed."""
        copy, compute = rows * self._calibration.copy_seconds, self._calibration.compute_seconds(rows)
        self._computed_at = max(time.monotonic() + copy, self._computed_at) + compute
        times = DeviceTimes(round(copy * 1e9), round(compute * 1e9), 0)
        self._batches[slot] = rows, self._computed_at, times

    def wait(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Sleep until then."""
        rows, computed_at, _ = self._batches[slot]
        time.sleep(max(0.0, computed_at - time.monotonic()))
        return (self._arrays[slot][0][:rows],)

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        """Every batch is staged."""
        raise NotImplementedError("every batch is staged")

    def times(self, slot: int) -> DeviceTimes:
        """Return what was noted."""
        return self._batches[slot][2]

    def renew(self) -> None:
        """Nothing is ever spoilt."""

    def replicate(self) -> CalibratedEngine:
        """Return another one."""
        return CalibratedEngine(self._calibration)

    def close(self) -> None:
        """Hold nothing."""


class EagerWorker(DeviceWorker):
    """Takes whatever waits as soon as a slot is free."""

    def _take(self) -> list[Work] | None:
        return self._model.take(wait=not self._flights, instance=self._instance)


class _Clock:
    """A sink that notes how long after it was due each request was answered."""

    def __init__(self, requests: int) -> None:
        self.seconds: list[float] = []
        self.has_all = threading.Event()
        self._requests = requests

    def encode(self, work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
        return b""

    def admit(self, work: Work, answer: bytes) -> None:
        """There is room for every answer."""

    def deliver_part(self, work: Work, answer: bytes) -> None:
        raise NotImplementedError("this model answers each request once")

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        now = time.monotonic()
        self.seconds.extend(now - work.reply for work, _ in answers)
        if len(self.seconds) == self._requests:
            self.has_all.set()


class Run(NamedTuple):
    """What one run showed; times in milliseconds."""

    mean_batch: float
    p50: float
    p99: float


def measure(worker: type[DeviceWorker], calibration: Calibration, load: float, seconds: float) -> Run:
    """Send this share of what the engine can do for so long, and return what came of it."""
    engine = CalibratedEngine(calibration)
    model = Model("m", "1", engine.spec, engine.platform, Limits(max_queue_size=1 << 20))
    rate = load * calibration.capacity
    gaps = random.Random(0)
    requests = round(rate * seconds)
    clock = _Clock(requests)
    serving = worker(model, engine)
    serving.start()
    due = time.monotonic()
    for _ in range(requests):
        due += gaps.expovariate(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        work = Work(model, _REQUEST, _ADMITTED, NO_DEADLINE, clock, due, time.monotonic_ns())
        model.submit(work)
    if not clock.has_all.wait(_PATIENCE_SECONDS):
        raise RuntimeError(f"{len(clock.seconds)} of {requests} requests were answered")
    model.close(drain=True)
    serving.join()
    kept = clock.seconds[requests // 10 :]  # until then the engine's times were being learnt
    cuts = statistics.quantiles(kept, n=100)
    return Run(requests / model.snapshot().execution_count, cuts[49] * 1000, cuts[98] * 1000)


def main() -> None:
    """Measure what the arguments ask for, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-ms", type=float, default=5.2, help="milliseconds for each batch")
    parser.add_argument("--row-ms", type=float, default=1.08, help="milliseconds for each row of it")
    parser.add_argument("--copy-ms", type=float, default=0.2, help="milliseconds for copying a row")
    parser.add_argument("--largest", type=int, default=64, help="rows of the largest batch")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.2, 0.5, 0.8, 0.95])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    calibration = Calibration(given.batch_ms / 1000, given.row_ms / 1000, given.copy_ms / 1000, given.largest)
    table = Table("load", "rows/s", "taken", "mean batch", "p50 ms", "p99 ms")
    for load in given.loads:
        runs: dict[str, list[Run]] = {"at once": [], "late": []}
        for _ in range(given.repeats):
            runs["at once"].append(measure(EagerWorker, calibration, load, given.seconds))
            runs["late"].append(measure(DeviceWorker, calibration, load, given.seconds))
        for name, its in runs.items():
            medians = [f"{statistics.median(values):.1f}" for values in zip(*its, strict=True)]
            table.add_row(f"{load:g}", f"{load * calibration.capacity:.0f}", name, *medians)
    Console().print(table)


if __name__ == "__main__":
    main()
