"""What waits for a model whose requests stand alone: bounded, in order, batches of equal shapes.

The order is by level of priority, then the earliest deadline, then arrival; within a level, work that is
overdue comes after all that is not. No deadline counts for more than a second from the arrival, and one
that is not there for just that: so nobody is put behind what comes a second later, and everybody's turn
comes. A model that preserves the order of its answers has arrival alone.

A plain data structure without a lock, a clock or a thread; the model that owns it serialises access.
Cancelled work is marked and skipped, so that giving up costs a caller nothing; when more than half of
what is held is such, it is swept out, so memory stays bounded by the limits whatever callers do.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from headrace_server.core.batching import Batching
from headrace_server.core.lanes import Entry, Lane, Lanes, is_gone
from headrace_server.core.priorities import Priorities
from headrace_server.core.queue import QueueFull, Taken
from headrace_server.core.request import ENDED, NO_DEADLINE, QUEUED, TAKEN, Work
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings

MOST_SECONDS_BEHIND: Final = 1.0
"""Who can wait for longer gains nothing by being put behind; most callers name a longer time, or none."""

_SWEEP_AT_LEAST: Final = 64


class _Level:
    """What waits at one level of priority."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0

    def add(self, work: Work, by: int) -> None:
        self.requests += by
        self.rows += by * work.rows


class RequestQueue:
    """Accepted work in the order in which it should be executed. Implements `queue.Queue`."""

    def __init__(
        self,
        max_requests: int,
        max_bytes: int,
        settings: ModelSettings = DEFAULT_SETTINGS,
        best_sizes: tuple[int, ...] = (),
    ) -> None:
        """`best_sizes` are the batches that the engine runs best, ascending."""
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._priorities = Priorities(settings)
        self._levels: defaultdict[int, _Level] | None = None
        if settings.priority_levels:
            self._levels = defaultdict(_Level)
        else:
            self._max_requests = min(max_requests, settings.default_policy.max_queue_size or max_requests)
        self._in_order = settings.preserve_ordering
        self._batching = Batching.of(settings, best_sizes)
        self._lanes = Lanes()
        self._overdue: list[tuple[float, int, Work]] = []
        """When work will be overdue, earliest first; what has left the queue is swept out in time."""
        self._arrivals = itertools.count()
        self._gone = 0
        self._quiet_until = 0.0
        """Before that, no batch is due while fewer than `_quiet_rows` rows wait."""
        self._quiet_rows = 0
        self.requests = 0
        self.rows = 0
        self.size_bytes = 0

    def push(self, work: Work) -> None:
        """Let the work wait. Raises QueueFull; a request of any size may wait alone."""
        requests = self.requests
        if requests >= self._max_requests:
            raise QueueFull(f"{requests} requests wait, which is the limit", self.rows)
        if requests and self.size_bytes + work.size_bytes > self._max_bytes:
            raise QueueFull(f"{self.size_bytes} bytes wait, the limit is {self._max_bytes}", self.rows)
        if self._levels is not None:
            self._check_level(self._levels, work.priority)
        arrival = next(self._arrivals)
        if self._in_order:
            is_head = self._lanes.add((0, 0.0, arrival, work))
        else:
            is_head = self._lanes.add((2 * work.priority, _place(work), arrival, work))
            if work.overdue_at != NO_DEADLINE:
                self._expect_overdue(work, arrival)
        if self._quiet_until and (is_head or work.deadline <= self._quiet_until):
            self._quiet_until = 0.0
        self.requests = requests + 1
        self.rows += work.rows
        self.size_bytes += work.size_bytes
        if self._levels is not None:
            self._levels[work.priority].add(work, 1)

    def discard(self, work: Work) -> Sequence[Work]:
        """End work that still waits; nothing depends on it."""
        self._leave((work,))
        work.state = ENDED
        work.data = ()
        self._quiet_until = 0.0
        self._gone += 1
        if self._gone >= _SWEEP_AT_LEAST and self._gone > self.requests:
            self._lanes.sweep()
            self._gone = 0
        return ()

    def take(self, max_rows: int, now: float, *, instance: int = 0, hurry: bool = False) -> Taken:
        """Remove the next batch, and what is found before it too late; any instance may have it.

        The batch begins with the first work in order, and holds what comes next of the same shapes. It is
        empty only if nothing is left to execute, or if more should be waited for.
        """
        if now < self._quiet_until and self.rows < self._quiet_rows and not hurry:
            return Taken([], [], self._quiet_until)
        self._quiet_until = 0.0
        if self._overdue:
            self._put_behind_what_is_overdue(now)
        missed: list[Work] = []
        lane, entries = self._gather(max_rows, now, missed)
        if missed:
            self._leave(missed)
        if lane is None:
            return Taken([], missed)
        batch = [entry[3] for entry in entries]
        again_at = NO_DEADLINE
        if self._batching is not None and not hurry:
            can_grow = not lane and len(self._lanes) == 1
            chosen, again_at, self._quiet_rows = self._batching.decide(
                batch, max_rows, now, can_grow=can_grow
            )
            if not chosen:
                self._quiet_until = min(again_at, self._overdue[0][0]) if self._overdue else again_at
            lane[:0] = entries[chosen:]
            del batch[chosen:]
        self._lanes.settle(lane)
        self._leave(batch)
        return Taken(batch, missed, again_at)

    def finished(self, works: Iterable[Work], now: float) -> None:
        """Nothing here depends on what was executed."""

    def clear(self) -> list[Work]:
        """Remove and return everything that waits."""
        works = [entry[3] for entry in self._lanes if not is_gone(entry)]
        self._leave(works)
        self._lanes.clear()
        self._overdue.clear()
        self._gone = 0
        return works

    def _gather(self, max_rows: int, now: float, missed: list[Work]) -> tuple[Lane | None, list[Entry]]:
        """Take the first entries of equal shapes that fit into one batch, and what is over before them.

        Returns them with their lane, which is not settled; no lane, if nothing is left.
        """
        entries: list[Entry] = []
        rows = 0
        while (lane := self._lanes.first()) is not None:
            passed = 0
            for entry in lane:
                work = entry[3]
                if work.state is not QUEUED or (work.is_overdue and is_gone(entry)):
                    self._gone -= 1
                elif work.deadline <= now:
                    missed.append(work)
                elif rows + work.rows <= max_rows or not entries:
                    entries.append(entry)
                    rows += work.rows
                else:
                    break
                passed += 1
                if not entries and len(self._lanes) > 1:
                    break  # another lane may be the first now
            del lane[:passed]
            if entries:
                return lane, entries
            self._lanes.settle(lane)
        return None, entries

    def _expect_overdue(self, work: Work, arrival: int) -> None:
        if len(self._overdue) > 2 * self.requests + _SWEEP_AT_LEAST:
            self._overdue = [one for one in self._overdue if one[2].state is QUEUED]
            heapq.heapify(self._overdue)
        heapq.heappush(self._overdue, (work.overdue_at, arrival, work))

    def _put_behind_what_is_overdue(self, now: float) -> None:
        while self._overdue and self._overdue[0][0] <= now:
            _, arrival, work = heapq.heappop(self._overdue)
            if work.state is QUEUED:
                work.is_overdue = True
                self._gone += 1
                self._lanes.add((2 * work.priority + 1, _place(work), arrival, work))

    def _check_level(self, levels: defaultdict[int, _Level], priority: int) -> None:
        limit = self._priorities.policy(priority).max_queue_size
        requests = levels[priority].requests
        if limit and requests >= limit:
            rows = sum(level.rows for number, level in levels.items() if number <= priority)
            raise QueueFull(f"{requests} requests of priority {priority} wait, its limit is {limit}", rows)

    def _leave(self, works: Sequence[Work]) -> None:
        rows = size_bytes = 0
        for work in works:
            work.state = TAKEN
            rows += work.rows
            size_bytes += work.size_bytes
        self.requests -= len(works)
        self.rows -= rows
        self.size_bytes -= size_bytes
        if self._levels is not None:
            for work in works:
                self._levels[work.priority].add(work, -1)


def _place(work: Work) -> float:
    """Return where the work stands in its rank: smaller comes first."""
    return min(work.deadline, work.queued_ns * 1e-9 + MOST_SECONDS_BEHIND)
