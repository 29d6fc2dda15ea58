"""Learns how long batches take, to tell a refused caller when to come back."""

from __future__ import annotations

import math

_WEIGHT = 0.1
"""Share of the newest batch in the running mean: the last ten batches or so count."""


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
