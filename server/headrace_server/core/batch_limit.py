"""The most rows that a model's batches may have: its largest batch, or less after memory has not sufficed."""

from __future__ import annotations

from typing import Final

from headrace_server.core.queue import NEVER

_WAIT_SECONDS: Final = 60.0
"""Until larger batches are tried again: by then others may have given memory back."""


class BatchLimit:
    """Halved by batches that memory does not suffice for, doubled again with time. Has no clock or lock."""

    def __init__(self, largest_rows: int) -> None:
        self.rows = largest_rows
        """The most for now."""
        self.grows_at = NEVER
        """When `grow` is due, on the monotonic clock in seconds."""
        self._largest_rows = largest_rows

    def exhausted(self, rows: int, now: float) -> bool:
        """Allow half of so many rows, which were too many; return whether the largest were allowed before."""
        was_largest = self.rows == self._largest_rows
        self.rows = max(1, min(self.rows, rows // 2))
        self.grows_at = now + _WAIT_SECONDS
        return was_largest

    def grow(self, now: float) -> None:
        """Allow twice as many, at most the largest."""
        self.rows = min(2 * self.rows, self._largest_rows)
        self.grows_at = NEVER if self.rows == self._largest_rows else now + _WAIT_SECONDS
