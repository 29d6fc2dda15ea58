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


class _Size:
    """Batches of about one size: means that follow the newest, and the line through them."""

    __slots__ = ("_covariance", "_deviation", "_rows", "_seconds", "_variance")

    def __init__(self, rows: int, seconds: float) -> None:
        self._rows = float(rows)
        self._seconds = seconds
        self._variance = self._covariance = 0.0
        self._deviation = seconds / 2  # a first one says little

    def record(self, rows: int, seconds: float) -> None:
        self._deviation += _WEIGHT * (abs(seconds - self._expected(rows)) - self._deviation)
        more_rows, more_seconds = rows - self._rows, seconds - self._seconds
        self._rows += _WEIGHT * more_rows
        self._seconds += _WEIGHT * more_seconds
        self._variance = (1 - _WEIGHT) * (self._variance + _WEIGHT * more_rows * more_rows)
        self._covariance = (1 - _WEIGHT) * (self._covariance + _WEIGHT * more_rows * more_seconds)

    def range(self, rows: int) -> tuple[float, float]:
        """Return between which seconds nearly all batches of so many rows are."""
        expected, off = self._expected(rows), _DEVIATIONS * self._deviation
        return max(0.0, expected - off), expected + off

    def _expected(self, rows: int) -> float:
        by_row = max(0.0, self._covariance / self._variance) if self._variance else 0.0
        return self._seconds + by_row * (rows - self._rows)


class BatchTimes:
    """What batches take by their rows, learnt for each power of two of them."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        """By the exponent of the next power of two."""

    def record(self, rows: int, seconds: float) -> None:
        """Take in one batch."""
        exponent = _exponent(rows)
        size = self._sizes.get(exponent)
        if size is None:
            self._sizes[exponent] = _Size(rows, seconds)
        else:
            size.record(rows, seconds)

    def least_seconds(self, rows: int) -> float | None:
        """Return what a batch of so many rows takes at least; None while nothing is known of such ones."""
        known = max((one for one in self._sizes if one <= _exponent(rows)), default=None)
        return None if known is None else self._sizes[known].range(min(rows, 1 << known))[0]

    def most_seconds(self, rows: int) -> float:
        """Return what a batch of so many rows takes at most; 0 while nothing is known."""
        wanted = _exponent(rows)
        known = min(self._sizes, key=lambda one: abs(one - wanted), default=None)
        if known is None:
            return 0.0
        times = float(1 << max(0, wanted - known))
        return times * self._sizes[known].range(min(rows, 1 << known))[1]


def _exponent(rows: int) -> int:
    return max(0, rows - 1).bit_length()
