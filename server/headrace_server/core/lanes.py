"""Waiting work in the order in which it should be executed, apart by shapes: only equal ones share a batch.

Each lane is a sorted list of the entries of one shape: most work belongs at its end, and a batch is cut off
its beginning. The first entries of all lanes stand in a heap, so that the number of shapes costs O(log n).
Entries are never removed from the middle: work that was cancelled leaves one behind that is gone, and a
lane with a new first entry leaves one behind among the heads. Both are skipped when they come up.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator
from typing import Final

from headrace_server.core.request import QUEUED, Shapes, Work

Entry = tuple[int, float, int, Work]
"""Rank, place in the rank, number of the arrival. An odd rank is for work that is overdue."""
Lane = list[Entry]

_SPARE_HEADS: Final = 64


def is_gone(entry: Entry) -> bool:
    """Whether the work is not to be executed from here: it has ended, or stands at another rank."""
    work = entry[3]
    return work.state is not QUEUED or (work.is_overdue and not entry[0] & 1)


class Lanes:
    """The lanes of one queue. Each has at least one entry, and its first is among the heads."""

    def __init__(self) -> None:
        self._lanes: dict[Shapes, Lane] = {}
        self._heads: list[Entry] = []

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[Entry]:
        for lane in self._lanes.values():
            yield from lane

    def add(self, entry: Entry) -> bool:
        """Let an entry wait; return whether it is the first of its lane."""
        shapes = entry[3].shapes
        lane = self._lanes.get(shapes)
        if lane is None:
            self._lanes[shapes] = [entry]
        elif lane[-1] < entry:
            lane.append(entry)
            return False
        else:
            bisect.insort(lane, entry)
            if lane[0] is not entry:
                return False
        heapq.heappush(self._heads, entry)
        if len(self._heads) > _SPARE_HEADS and len(self._heads) > 2 * len(self._lanes):
            self._collect_heads()
        return True

    def first(self) -> Lane | None:
        """Return the lane whose first entry comes before all others. Whoever takes from it calls `settle`."""
        heads = self._heads
        while heads:
            lane = self._lanes.get(heads[0][3].shapes)
            if lane is not None and lane[0] is heads[0]:
                return lane
            heapq.heappop(heads)
        return None

    def settle(self, lane: Lane) -> None:
        """Put the lane, which was the first, where its entries belong now."""
        if lane:
            heapq.heapreplace(self._heads, lane[0])
        else:
            del self._lanes[heapq.heappop(self._heads)[3].shapes]

    def sweep(self) -> None:
        """Forget every entry that is gone."""
        kept = {shapes: [one for one in lane if not is_gone(one)] for shapes, lane in self._lanes.items()}
        self._lanes = {shapes: lane for shapes, lane in kept.items() if lane}
        self._collect_heads()

    def clear(self) -> None:
        """Forget everything."""
        self._lanes.clear()
        self._heads.clear()

    def _collect_heads(self) -> None:
        self._heads = [lane[0] for lane in self._lanes.values()]
        heapq.heapify(self._heads)
