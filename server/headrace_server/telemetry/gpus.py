"""What the GPUs of this machine tell of themselves, as Triton's series and some of our own.

A scrape reads them, at most once a second. A library that hangs, as it may when a GPU is lost, holds up one
scrape, and the others do without.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import Metric

_SECONDS: Final = 1.0
_STALE_SECONDS: Final = 10.0


class GpuSample(Protocol):
    """One GPU at one moment; what it does not tell is None."""

    @property
    def utilisation(self) -> float | None:
        """Share of the last moments, 0 to 1, in which it computed."""

    @property
    def memory_total(self) -> int | None:
        """Bytes."""

    @property
    def memory_used(self) -> int | None:
        """Bytes."""

    @property
    def power_watts(self) -> float | None:
        """What it draws."""

    @property
    def temperature_celsius(self) -> float | None:
        """Of the chip."""

    @property
    def uncorrected_ecc(self) -> int | None:
        """Errors of its memory that could not be corrected, since the driver was loaded."""


Samples = Mapping[str, GpuSample]
"""By the GPU's UUID."""

_SERIES: Final[tuple[tuple[str, str, Callable[[GpuSample], float | None]], ...]] = (
    (
        "nv_gpu_utilization",
        "Share of time (0 to 1) in which the GPU computed",
        lambda of: of.utilisation,
    ),
    (
        "nv_gpu_memory_total_bytes",
        "Memory of the GPU",
        lambda of: of.memory_total,
    ),
    (
        "nv_gpu_memory_used_bytes",
        "Memory of the GPU in use, by whomever",
        lambda of: of.memory_used,
    ),
    (
        "nv_gpu_power_usage",
        "Watts that the GPU draws",
        lambda of: of.power_watts,
    ),
    (
        "headrace_gpu_temperature_celsius",
        "Temperature of the GPU",
        lambda of: of.temperature_celsius,
    ),
    (
        "headrace_gpu_uncorrected_ecc_errors",
        "Errors of the GPU's memory that could not be corrected",
        lambda of: of.uncorrected_ecc,
    ),
)


class Gpus:
    """The last samples, read again when they are asked for. Any thread may ask."""

    def __init__(self, read: Callable[[], Samples], clock: Callable[[], float] = time.monotonic) -> None:
        """`read` may block; `clock` tells seconds."""
        self._read = read
        self._clock = clock
        self._reading = threading.Lock()
        self._samples: Samples = {}
        self._read_at = -math.inf

    def metrics(self) -> Iterator[Metric]:
        """Return the series of all GPUs; nothing where there is none."""
        samples = self._newest()
        for name, text, value in _SERIES:
            metric = Metric(name, text, "gauge")
            for uuid, sample in samples.items():
                told = value(sample)
                if told is not None:
                    metric.add_sample(name, {"gpu_uuid": uuid}, told)
            yield metric

    def _newest(self) -> Samples:
        if self._clock() - self._read_at >= _SECONDS and self._reading.acquire(blocking=False):
            try:
                samples = self._read()
                self._samples, self._read_at = samples, self._clock()
            finally:
                self._reading.release()
        return self._samples if self._clock() - self._read_at < _STALE_SECONDS else {}
