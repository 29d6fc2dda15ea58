"""Whether an engine is so quick that handing a batch to its thread would cost more than computing it."""

from __future__ import annotations

from typing import Final

_QUICK_NS: Final = 100_000
"""Waking another thread and being woken by it costs two threads about that much."""
_UNKNOWN_NS: Final = 10 * _QUICK_NS
_KEPT: Final = 0.9


class Pace:
    """Follows how long executions keep a thread busy: up at once, and down a tenth at a time.

    So an engine is quick after a few dozen quick executions, and for a while after a slow one it is not.
    """

    def __init__(self) -> None:
        self._bound_ns: float = _UNKNOWN_NS
        self.is_quick = False

    def took(self, busy_ns: int) -> None:
        """Take in one execution, by the time that its thread was busy."""
        self._bound_ns = max(busy_ns, self._bound_ns * _KEPT)
        self.is_quick = self._bound_ns <= _QUICK_NS
