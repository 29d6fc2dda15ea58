"""What waits for a model: bounded, earliest deadline first, batches of equal shapes.

A plain data structure without a lock, a clock or a thread; the model that owns it serialises access.
Cancelled work is marked and skipped, so that giving up costs a caller nothing; when more than half of
what is held is such, it is swept out, so memory stays bounded by the limits whatever callers do.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from headrace_server.core.request import Shapes, State, Work

NEVER: Final = math.inf
_SWEEP_AT_LEAST = 64


class QueueFull(Exception):
    """A limit of the queue would be passed."""


class Taken(NamedTuple):
    """What a queue gave when it was asked for a batch; all of it has left the queue."""

    batch: list[Work]
    missed: list[Work]
    """Work whose deadline has passed, for the taker to answer."""
    again_at: float = NEVER
    """When to ask again though nothing has happened, on the monotonic clock in seconds."""
    orphans: Sequence[Work] = ()
    """Work that cannot be executed because what it depends on was missed, for the taker to answer."""


class Queue(Protocol):
    """What a model needs of whatever holds its waiting work. The model serialises access."""

    @property
    def requests(self) -> int:
        """Requests that wait."""

    @property
    def rows(self) -> int:
        """Rows of the requests that wait."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the requests that wait."""

    def push(self, work: Work) -> None:
        """Let the work wait. Raises QueueFull, or an InferenceError where it can never be executed."""

    def discard(self, work: Work) -> Sequence[Work]:
        """End work that still waits; its place is free at once.

        Returns what cannot be executed without it, which has left the queue as well.
        """

    def take(self, max_rows: int, now: float, *, instance: int = 0, hurry: bool = False) -> Taken:
        """Remove the next batch for this instance of the engine, which is free.

        The batch holds at most `max_rows` rows, or one request. It may be empty though something waits:
        for a larger batch, unless in a `hurry` because nothing more will come, or for another instance.
        """

    def clear(self) -> list[Work]:
        """Remove and return everything that waits."""


class RequestQueue:
    """Accepted work in the order in which it should be executed."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._heaps: dict[Shapes, list[tuple[float, int, Work]]] = {}
        self._arrivals = itertools.count()
        self._gone = 0
        self.requests = 0
        self.rows = 0
        self.size_bytes = 0

    def push(self, work: Work) -> None:
        """Let the work wait. Raises QueueFull; a request of any size may wait alone."""
        if self.requests >= self._max_requests:
            raise QueueFull(f"{self.requests} requests wait, which is the limit")
        if self.requests and self.size_bytes + work.size_bytes > self._max_bytes:
            raise QueueFull(f"{self.size_bytes} bytes wait, the limit is {self._max_bytes}")
        heap = self._heaps.get(work.shapes)
        if heap is None:
            heap = self._heaps[work.shapes] = []
        heapq.heappush(heap, (work.deadline, next(self._arrivals), work))
        self._count(work, 1)

    def discard(self, work: Work) -> Sequence[Work]:
        """End work that still waits; nothing depends on it."""
        work.state = State.ENDED
        work.data = ()
        self._count(work, -1)
        self._gone += 1
        if self._gone >= _SWEEP_AT_LEAST and self._gone > self.requests:
            self._sweep()
        return ()

    def take(self, max_rows: int, now: float, *, instance: int = 0, hurry: bool = False) -> Taken:
        """Remove the next batch, and what can no longer be in time; return both.

        The batch begins with the earliest deadline and holds work of the same shapes, at most
        `max_rows` rows. It is empty only if nothing is left to execute.
        """
        late: list[Work] = []
        batch: list[Work] = []
        heap = self._first_heap(now, late)
        rows = 0
        while heap:
            deadline, _, work = heap[0]
            if work.state is State.ENDED:
                self._gone -= 1
            elif deadline <= now:
                late.append(work)
                self._leave(work)
            elif rows + work.rows <= max_rows or not batch:
                batch.append(work)
                rows += work.rows
                self._leave(work)
            else:
                break
            heapq.heappop(heap)
        if not heap:
            self._forget_empty_heaps()
        return Taken(batch, late)

    def clear(self) -> list[Work]:
        """Remove and return everything that waits."""
        works = [work for heap in self._heaps.values() for *_, work in heap if work.state is State.QUEUED]
        for work in works:
            self._leave(work)
        self._heaps.clear()
        self._gone = 0
        return works

    def _first_heap(self, now: float, late: list[Work]) -> list[tuple[float, int, Work]] | None:
        """Return the heap that holds the earliest deadline, for which all of them lose what is over."""
        if len(self._heaps) > 1:
            for heap in self._heaps.values():
                self._drop_heads(heap, now, late)
            self._forget_empty_heaps()
        return min(self._heaps.values(), key=_head, default=None)

    def _drop_heads(self, heap: list[tuple[float, int, Work]], now: float, late: list[Work]) -> None:
        while heap and (heap[0][2].state is State.ENDED or heap[0][0] <= now):
            work = heapq.heappop(heap)[2]
            if work.state is State.ENDED:
                self._gone -= 1
            else:
                late.append(work)
                self._leave(work)

    def _forget_empty_heaps(self) -> None:
        self._heaps = {shapes: heap for shapes, heap in self._heaps.items() if heap}

    def _leave(self, work: Work) -> None:
        work.state = State.TAKEN
        self._count(work, -1)

    def _count(self, work: Work, by: int) -> None:
        self.requests += by
        self.rows += by * work.rows
        self.size_bytes += by * work.size_bytes

    def _sweep(self) -> None:
        for shapes, heap in list(self._heaps.items()):
            kept = [entry for entry in heap if entry[2].state is State.QUEUED]
            heapq.heapify(kept)
            if kept:
                self._heaps[shapes] = kept
            else:
                del self._heaps[shapes]
        self._gone = 0


def _head(heap: list[tuple[float, int, Work]]) -> tuple[float, int]:
    return heap[0][:2]
