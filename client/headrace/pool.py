"""The servers that calls may go to, and the choice among them.

A plain data structure: no I/O, no clock and no lock. Time is an argument (seconds of any clock that
only goes forward), what stands for a connection is opened by a function that the owner gives, and
what has to be closed is returned to the owner.

The choice is the better of two: one server is drawn by weight, a second one from the rest, and the
one with fewer calls under way for its weight is taken. That keeps slow servers from collecting calls
and needs no figures from anyone. A server that failed is left out for a while (ejected), longer
each time, unless all of them are: then failing is no worse than not trying.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final, Generic, TypeVar

from headrace.endpoint import Endpoint, Status

Link = TypeVar("Link")

EJECTION_SECONDS: Final = 1.0
"""How long a server is left out after one failure; n failures in a row make n times as long."""

MAX_EJECTION_SECONDS: Final = 10.0

RETIREMENT_SECONDS: Final = 1.0
"""How long the connection to a server that is listed no more stays: look-ups may flicker."""


@dataclass(slots=True, eq=False)
class Slot(Generic[Link]):
    """One server: its connection, and what is known from the calls to it."""

    address: str
    link: Link
    weight: int
    tls: bool
    outstanding: int = 0
    failures: int = 0
    ejected_until: float = -math.inf
    retired_at: float | None = None


class Pool(Generic[Link]):
    """The servers of one target.

    `connect` makes the connection to a server; it must not block.
    """

    def __init__(self, connect: Callable[[Endpoint], Link], random: Random) -> None:
        self._connect = connect
        self._random = random
        self._slots: dict[str, Slot[Link]] = {}
        self._active: list[Slot[Link]] = []
        self._cumulative: list[int] = []
        self._ejections_end = -math.inf
        self.known = False
        """Whether a first set of servers has come at all."""
        self.listed = 0
        """How many servers the last set listed, usable or not."""

    def update(self, endpoints: Sequence[Endpoint], now: float) -> list[Link]:
        """Take over a complete set of servers; return the connections to close now.

        Servers in maintenance count as absent. Critical ones lose their connection at once, so that
        calls hanging on them go elsewhere, unless nothing better is listed: then they are all used. So do
        servers that speak TLS now and did not before, or the reverse.
        """
        healthy = [e for e in endpoints if e.status in (Status.PASSING, Status.WARNING)]
        critical = [e for e in endpoints if e.status is Status.CRITICAL]
        wanted = {endpoint.address: endpoint for endpoint in healthy or critical}
        dropped = {endpoint.address for endpoint in critical} - wanted.keys()
        dropped |= {
            slot.address
            for slot in self._slots.values()
            if slot.address in wanted and wanted[slot.address].tls is not slot.tls
        }
        closing = [self._slots.pop(address).link for address in dropped if address in self._slots]
        for endpoint in wanted.values():
            self._want(endpoint)
        for address, slot in self._slots.items():
            if address not in wanted and slot.retired_at is None:
                slot.retired_at = now
        self._active = [slot for slot in self._slots.values() if slot.retired_at is None]
        self._cumulative = list(accumulate(slot.weight for slot in self._active))
        self.known = True
        self.listed = len(endpoints)
        return closing + self.sweep(now)

    def _want(self, endpoint: Endpoint) -> None:
        weight = max(endpoint.weight, 1)
        slot = self._slots.get(endpoint.address)
        if slot is None:
            link = self._connect(endpoint)
            self._slots[endpoint.address] = Slot(endpoint.address, link, weight, endpoint.tls)
        else:
            slot.weight = weight
            slot.retired_at = None

    def pick(self, now: float, tried: Collection[str] = ()) -> Slot[Link] | None:
        """Choose a server for a call and count the call; None if there is no server at all.

        Addresses in `tried` are chosen only if nothing else is left.
        """
        candidates, cumulative = self._active, self._cumulative
        if tried or now < self._ejections_end:
            candidates = self._preferred(now, tried)
            cumulative = list(accumulate(slot.weight for slot in candidates))
        if not candidates:
            return None
        slot = self._better_of_two(candidates, cumulative)
        slot.outstanding += 1
        return slot

    def _preferred(self, now: float, tried: Collection[str]) -> list[Slot[Link]]:
        sound = [slot for slot in self._active if slot.ejected_until <= now]
        candidates = sound or self._active
        return [slot for slot in candidates if slot.address not in tried] or candidates

    def _better_of_two(self, candidates: list[Slot[Link]], cumulative: list[int]) -> Slot[Link]:
        count = len(candidates)
        if count == 1:
            return candidates[0]
        draw = self._random.random
        index = bisect_right(cumulative, draw() * cumulative[-1], 0, count - 1)
        first = candidates[index]
        second = candidates[(index + 1 + int(draw() * (count - 1))) % count]
        if second.outstanding * first.weight < first.outstanding * second.weight:
            return second
        return first

    def done(self, slot: Slot[Link], now: float, *, failed: bool) -> list[Link]:
        """Count a call that `pick` counted as over; return the connections to close now.

        `failed` says that the server was at fault, not that the call ended with an error. Calls that
        fail together are one failure: further ones count only when the ejection is over.
        """
        slot.outstanding -= 1
        if not failed:
            slot.failures = 0
            slot.ejected_until = -math.inf
        elif slot.ejected_until <= now:
            slot.failures += 1
            slot.ejected_until = now + min(EJECTION_SECONDS * slot.failures, MAX_EJECTION_SECONDS)
            self._ejections_end = max(self._ejections_end, slot.ejected_until)
        return self.sweep(now) if slot.retired_at is not None else []

    def elsewhere(self, now: float, tried: Collection[str]) -> bool:
        """Say whether a server other than those in `tried` would be chosen."""
        return any(slot.ejected_until <= now and slot.address not in tried for slot in self._active)

    def sweep(self, now: float) -> list[Link]:
        """Forget the servers that retired a while ago and have no call left; return their connections."""
        over = [
            slot
            for slot in self._slots.values()
            if slot.retired_at is not None
            and slot.outstanding == 0
            and now >= slot.retired_at + RETIREMENT_SECONDS
        ]
        for slot in over:
            del self._slots[slot.address]
        return [slot.link for slot in over]

    def clear(self) -> list[Link]:
        """Forget every server; return all connections."""
        links = [slot.link for slot in self._slots.values()]
        self._slots.clear()
        self._active = []
        self._cumulative = []
        return links
