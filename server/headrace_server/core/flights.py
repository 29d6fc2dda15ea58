"""The batches that an instance has taken and not answered, and whose they are.

They are the engine's thread's, which may be stuck in its device for ever, or come back from it at the very
moment at which somebody else gives the engine up. Who gets a batch from here answers it, and each leaves in
one step: so every request is answered once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

from numpy.typing import NDArray

from headrace_engines.errors import DeviceError
from headrace_server.core.request import Work


class Flight:
    """A batch on its way through the engine."""

    __slots__ = ("begun_ns", "inputs", "rows", "slot", "started_ns", "was_tried", "works")

    def __init__(self, works: list[Work], *, was_tried: bool = False) -> None:
        self.begun_ns = self.started_ns = time.monotonic_ns()
        self.works = works
        self.was_tried = was_tried
        """See `Batch`."""
        rows = 0
        for work in works:
            rows += work.rows
        self.rows = rows
        self.slot = -1
        """Where it was submitted, if its rows went through a staging buffer."""
        self.inputs: Sequence[NDArray[Any] | None] = ()
        """What it is to be executed with, if they did not."""


def halves(works: Sequence[Work]) -> list[list[Work]]:
    """Part several requests in two, in their order, of as nearly as many rows as can be."""
    rows = list(accumulate(work.rows for work in works))
    middle = min(range(1, len(works)), key=lambda cut: abs(2 * rows[cut - 1] - rows[-1]))
    return [list(works[:middle]), list(works[middle:])]


class Batch(NamedTuple):
    """Requests that are to be executed together, and not for the first time."""

    works: list[Work]
    was_tried: bool = False
    """Whether the engine was spoilt while they were executed: if it is again, they are the cause."""


class Flights:
    """Batches in the air, in order, and those that are to be executed again before anything else.

    Every method of the engine's thread raises DeviceError once all was given up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._air: deque[Flight] = deque()
        self._again: deque[Batch] = deque()
        self._is_given_up = False

    def __len__(self) -> int:
        """Return how many are in the air."""
        return len(self._air)

    @property
    def has_again(self) -> bool:
        """Whether something is to be executed again."""
        return bool(self._again)

    @property
    def has_tried(self) -> bool:
        """Whether something is here that the engine was spoilt under."""
        with self._lock:
            in_air = any(flight.was_tried for flight in self._air)
            return in_air or any(batch.was_tried for batch in self._again)

    def begin(self, works: list[Work]) -> Flight:
        """Send a batch off that was taken."""
        flight = Flight(works)
        with self._lock:
            self._air.append(flight)
            self._check()
        return flight

    def begin_again(self) -> Flight:
        """Send off what is to be executed again first."""
        with self._lock:
            self._check()
            works, was_tried = self._again.popleft()
            flight = Flight(works, was_tried=was_tried)
            self._air.append(flight)
        return flight

    def first(self) -> Flight:
        """Return the one that has been in the air longest."""
        with self._lock:
            self._check()
            return self._air[0]

    @contextmanager
    def claimed(self, flight: Flight) -> Iterator[None]:
        """Have its requests to answer in the block; should that end early, they are here to be given up."""
        with self._lock:
            self._check()
            self._air.remove(flight)
        try:
            yield
        except BaseException:
            with self._lock:
                self._again.append(Batch(flight.works))
            raise

    def separate(self, flight: Flight, parts: Sequence[list[Work]]) -> None:
        """Have its requests executed again in these parts."""
        with self._lock:
            self._check()
            self._air.remove(flight)
            self._again.extendleft(Batch(part) for part in reversed(parts))

    def ground(self) -> None:
        """Have everything that is in the air executed again."""
        with self._lock:
            self._check()
            self._again.extendleft(Batch(one.works, one.was_tried) for one in reversed(self._air))
            self._air.clear()

    def claim_again(self) -> list[Batch]:
        """Return what is to be executed again, for the caller to answer or to put back."""
        with self._lock:
            self._check()
            batches = list(self._again)
            self._again.clear()
        return batches

    def put_again(self, batches: Sequence[Batch]) -> None:
        """Have these batches executed again, after what is to be already."""
        with self._lock:
            self._again.extend(batches)
            self._check()

    def in_hand(self) -> tuple[int, int]:
        """Return how many requests are here, and when the first batch in the air was begun; 0 if none is."""
        with self._lock:
            requests = sum(map(len, self._works()))
            return requests, self._air[0].begun_ns if self._air else 0

    def give_up(self) -> list[Work]:
        """Return every request that is here, for the caller to answer. Any thread may call it, and again."""
        with self._lock:
            self._is_given_up = True
            works = [work for batch in self._works() for work in batch]
            self._air.clear()
            self._again.clear()
        return works

    def check(self) -> None:
        """Raise DeviceError once all was given up."""
        with self._lock:
            self._check()

    def _works(self) -> list[list[Work]]:
        return [*(flight.works for flight in self._air), *(batch.works for batch in self._again)]

    def _check(self) -> None:
        if self._is_given_up:
            raise DeviceError("the engine was given up")
