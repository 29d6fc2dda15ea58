"""Learns how long batches take, to say when to come back, and when to prepare the next."""

from __future__ import annotations

import math

_WEIGHT = 0.1
"""Share of the newest batch in the running mean: the last ten batches or so count."""

_DEVIATIONS = 2.0
"""So far from the mean hardly a batch is."""


class BatchLatency:
    """A running mean of the seconds that a batch takes, whatever its size."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._mean_seconds = 0.0

    def record(self, seconds: float) -> None:
        """Take in one batch."""
        if self._mean_seconds == 0.0:
            self._mean_seconds = seconds
        else:
            self._mean_seconds += _WEIGHT * (seconds - self._mean_seconds)

    def drain_seconds(self, rows: int) -> float:
        """Estimate the time until `rows` waiting rows have been executed; at least a millisecond."""
        return max(0.001, math.ceil(rows / self._max_rows) * self._mean_seconds)


class BatchTimes:
    """What batches take, for each power of two of rows: a running mean, and how far off it is."""

    def __init__(self) -> None:
        self._sizes: dict[int, tuple[float, float]] = {}
        """Mean and mean deviation in seconds, by the exponent of the next power of two."""

    def record(self, rows: int, seconds: float) -> None:
        """Take in one batch."""
        exponent = _exponent(rows)
        if exponent not in self._sizes:
            self._sizes[exponent] = seconds, seconds / 2  # a first one says little
            return
        mean, deviation = self._sizes[exponent]
        off = seconds - mean
        self._sizes[exponent] = mean + _WEIGHT * off, deviation + _WEIGHT * (abs(off) - deviation)

    def least_seconds(self, rows: int) -> float | None:
        """Return what a batch of so many rows takes at least; None while nothing is known of such ones."""
        known = [exponent for exponent in self._sizes if exponent <= _exponent(rows)]
        if not known:
            return None
        mean, deviation = self._sizes[max(known)]
        return max(0.0, mean - _DEVIATIONS * deviation)

    def most_seconds(self, rows: int) -> float:
        """Return what a batch of so many rows takes at most; 0 while nothing is known."""
        wanted = _exponent(rows)
        nearest = min(self._sizes, key=lambda exponent: abs(exponent - wanted), default=None)
        if nearest is None:
            return 0.0
        mean, deviation = self._sizes[nearest]
        return (mean + _DEVIATIONS * deviation) * float(1 << max(0, wanted - nearest))


def _exponent(rows: int) -> int:
    return max(0, rows - 1).bit_length()
