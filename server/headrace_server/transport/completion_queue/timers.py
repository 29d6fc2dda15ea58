"""Things that are to happen at a time, done by one thread; few requests have any."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

_logger = logging.getLogger(__name__)

_SWEEP_AT_LEAST: Final = 256
_LONGEST_WAIT_SECONDS: Final = 3600.0
"""Callers may name a time centuries off, which no clock can wait for."""


class DueTimer:
    """One of them."""

    __slots__ = ("_timers", "do")

    def __init__(self, do: Callable[[], object], timers: Timers) -> None:
        self.do: Callable[[], object] | None = do
        self._timers = timers

    def cancel(self) -> None:
        """Let it not happen, and let go of what it would have done."""
        if self.do is not None:
            self.do = None
            self._timers.count_cancelled()


class Timers:
    """The thread, which begins with the first timer."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._due: list[tuple[float, int, DueTimer]] = []
        self._numbers = itertools.count()
        self._cancelled = 0
        self._is_over = False
        self._thread: threading.Thread | None = None

    def add(self, seconds: float, do: Callable[[], object]) -> DueTimer:
        """Do something after a time."""
        timer = DueTimer(do, self)
        entry = (time.monotonic() + seconds, next(self._numbers), timer)
        with self._changed:
            heapq.heappush(self._due, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
                self._thread.start()
            if self._due[0] is entry:
                self._changed.notify()
        return timer

    def count_cancelled(self) -> None:
        """Sweep out what was cancelled, once that is most of what there is."""
        with self._changed:
            self._cancelled += 1
            if self._cancelled >= _SWEEP_AT_LEAST and 2 * self._cancelled > len(self._due):
                self._due = [entry for entry in self._due if entry[2].do is not None]
                heapq.heapify(self._due)
                self._cancelled = 0

    def close(self) -> None:
        """Do nothing more, and wait until what is being done has been."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (timer := self._next()) is not None:
            do, timer.do = timer.do, None
            try:
                if do is not None:
                    do()
            except Exception:
                _logger.exception("a timer's function failed")

    def _next(self) -> DueTimer | None:
        with self._changed:
            while not self._is_over:
                if not self._due:
                    self._changed.wait()
                elif (seconds := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(min(seconds, _LONGEST_WAIT_SECONDS))
                else:
                    return heapq.heappop(self._due)[2]
        return None
