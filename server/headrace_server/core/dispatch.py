"""Hands what waits for a model to its instances as they are free, and wakes no more of them than is of use.

The only instance of a quick engine is lent, while its thread waits, to whoever brings work: it is executed on
that thread then, since waking another one costs more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from headrace_server.core.batch_limit import BatchLimit
from headrace_server.core.queue import NEVER, Queue, Taken
from headrace_server.core.request import Work


class Dispatch:
    """The lock that a model's queue is behind, and those who wait at it. Any thread may call it."""

    def __init__(self, queue: Queue, max_rows: int, *, has_sequences: bool) -> None:
        self.lock = threading.Lock()
        """Held for whatever is done to the queue."""
        self.is_closing = False
        self.lost: str | None = None
        """Why nothing will be executed again, or None."""
        self.most_lent_rows = 0
        """The only instance may be lent for at most so many rows."""
        self._queue = queue
        self._limit = BatchLimit(max_rows)
        self._changed = threading.Condition(self.lock)
        # Work of a sequence is for one instance alone, so that each has to look.
        self._has_sequences = has_sequences
        self._notify = self._changed.notify_all if has_sequences else self._changed.notify
        self._idle = 0
        """Instances that wait for work."""
        self._full = threading.Condition(self.lock)
        self._awaiting = 0
        """Those of the idle ones that wait for a full batch."""
        self._released = False
        self._is_lent = False
        """Whether somebody uses the only instance while its thread waits."""

    def wake(self) -> None:
        """Have an instance look at what was pushed; the lock is held."""
        self._released = True
        if self._idle and not self._is_lent:
            self._notify()

    def release(self) -> Taken | None:
        """Wake an instance, or return what is to be executed here, with the instance until `take_back`."""
        with self.lock:
            is_quick = 0 < self._queue.rows <= self.most_lent_rows
            if not is_quick or self._is_lent or not self._idle:
                self.wake()
                return None
            self._released = True
            taken = self._next(wait=False, instance=0)
            if taken is None or not (taken.batch or taken.missed):  # more should be waited for
                self.wake()
                return None
            self._is_lent = True
            return taken

    def take_back(self) -> None:
        """Let the instance that was lent go on with what has come meanwhile."""
        with self.lock:
            self._is_lent = False
            if self._released or self.is_closing:
                self._notify()

    def next(self, instance: int, *, wait: bool) -> Taken | None:
        """Return what the queue gives this instance as soon as it gives something, with `wait`.

        None if all is lost, or closing and everything that was accepted has been taken.
        """
        with self.lock:
            return self._next(wait, instance)

    def await_batch(self, until: float) -> None:
        """Return when a full batch waits, all is closing or lost, or the moment has come, in seconds.

        A request that comes wakes nobody here, unless it is the one that makes the batch full.
        """
        with self.lock:
            self._notify = self._notify_awaiting
            self._idle += 1
            self._awaiting += 1
            try:
                while not (
                    self.lost or self.is_closing or (self._released and self._queue.rows >= self._limit.rows)
                ):
                    seconds = until - time.monotonic()
                    if seconds <= 0 or not self._full.wait(seconds):
                        return
            finally:
                self._idle -= 1
                self._awaiting -= 1

    def exhausted(self, rows: int) -> bool:
        """Give smaller batches for a while; return whether that is news: see `BatchLimit.exhausted`."""
        with self.lock:
            return self._limit.exhausted(rows, time.monotonic())

    def discard(self, work: Work) -> Sequence[Work]:
        """End work that waits, and return what cannot be executed without it; the lock is held."""
        orphans = self._queue.discard(work)
        if self.is_closing and not self._queue.requests:
            self._changed.notify_all()
        return orphans

    def finished(self, works: Sequence[Work]) -> None:
        """Tell the queue that an instance is done with these."""
        with self.lock:
            self._queue.finished(works, time.monotonic())
            if self._idle and self._has_sequences:
                self._notify()  # one that begins anew may have found a slot of an instance that waits

    def lose(self, reason: str) -> tuple[bool, list[Work]]:
        """Let nothing be executed again; return whether this is the first to say so, and all that waited."""
        with self.lock:
            is_first = self.lost is None
            self.lost = self.lost or reason
            works = self._queue.clear()
            self._wake_all()
        return is_first, works

    def close(self, *, drain: bool) -> list[Work]:
        """Take nothing more; return what waits and will not be executed: nothing of it, with `drain`."""
        with self.lock:
            self.is_closing = True
            works = [] if drain else self._queue.clear()
            self._released = self._queue.requests > 0
            self._wake_all()
        return works

    def _wake_all(self) -> None:
        self._changed.notify_all()
        self._full.notify_all()

    def _notify_awaiting(self) -> None:
        """Wake an instance that has nothing to do, else one that waits for a full batch if that is there."""
        if self._idle > self._awaiting:
            self._changed.notify()
        elif self._queue.rows >= self._limit.rows:
            self._full.notify()

    def _next(self, wait: bool, instance: int) -> Taken | None:
        while self.lost is None:
            again_at = NEVER
            if self._released and not (wait and self._is_lent):
                now, limit = time.monotonic(), self._limit
                if limit.grows_at <= now:
                    limit.grow(now)
                taken = self._queue.take(limit.rows, now, instance=instance, hurry=self.is_closing)
                self._released = self._queue.requests > 0
                if taken.batch or taken.missed:
                    if self._idle:
                        self._wake_others()
                    return taken
                again_at = taken.again_at
            if self.is_closing and not self._released and not self._is_lent:
                return None
            if not wait:
                return Taken([], [])
            self._idle += 1
            try:
                self._changed.wait(None if again_at == NEVER else again_at - time.monotonic())
            finally:
                self._idle -= 1
        return None

    def _wake_others(self) -> None:
        """Let other instances have what is left, or end with the model that is closing."""
        if self._released:
            self._notify()
        elif self.is_closing:
            self._changed.notify_all()
