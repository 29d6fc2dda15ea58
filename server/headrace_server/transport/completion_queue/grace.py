"""The time that a stop has: whatever it waits for is waited for within it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_ALL: Final = 1.0


class Grace:
    """A time that has begun."""

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        """`wait` waits for an event for so many seconds of the clock, and returns whether it has come."""
        self.seconds = seconds
        self._clock = clock
        self._wait = wait
        self._begun = clock()

    def left(self, part: float = _ALL, most_seconds: float = float("inf")) -> float:
        """Return the seconds until this part of the time has gone, and no more than so many."""
        seconds = self._begun + part * self.seconds - self._clock()
        return max(min(seconds, most_seconds), 0.0)

    def wait(self, event: threading.Event, part: float = _ALL, most_seconds: float = float("inf")) -> bool:
        """Wait for an event no longer than `left` says, and return whether it has come."""
        return self._wait(event, self.left(part, most_seconds))

    def pass_by(self, part: float, most_seconds: float) -> None:
        """Let as much time go by as `left` says."""
        self.wait(threading.Event(), part, most_seconds)
