"""The slots in which instances of a model keep the state of sequences."""

from __future__ import annotations

import collections
import heapq
from collections.abc import Sequence

from headrace_engines.steps import SequenceTurn
from headrace_server.core.request import Work
from headrace_server.errors import InvalidInput


class RunningSequence:
    """The requests of one id that are known here."""

    __slots__ = ("begun", "id", "instance", "last_active", "running", "slot", "waiting")

    def __init__(self, sequence_id: int | str) -> None:
        self.id = sequence_id
        self.waiting: collections.deque[Work] = collections.deque()
        self.running: Work | None = None
        self.begun = False
        """Whether its first request was taken, and its last was not executed."""
        self.instance = -1
        self.slot = -1
        """-1 while it waits for a slot."""
        self.last_active = 0.0
        """When something came or was executed last, on the monotonic clock in seconds."""

    @property
    def is_open(self) -> bool:
        """Whether a request that is not the first of a sequence continues this one."""
        last = self.waiting[-1] if self.waiting else self.running
        return self.begun if last is None else not turn_of(last).end

    @property
    def is_ready(self) -> bool:
        """Whether its next request can be executed."""
        return bool(self.waiting) and self.running is None

    @property
    def is_resting(self) -> bool:
        """Whether it has nothing to execute."""
        return not self.waiting and self.running is None


class Slots:
    """The slots of all instances, and the sequences that wait for one."""

    def __init__(self, instances: int, slots: int) -> None:
        """`slots` are those of each instance."""
        self._slots: list[list[RunningSequence | None]] = [[None] * slots for _ in range(instances)]
        self._free = [list(range(slots)) for _ in range(instances)]
        self._backlog: dict[RunningSequence, None] = {}
        """Sequences without a slot, oldest first; there are none while a slot is free."""

    @property
    def are_wanted(self) -> bool:
        """Whether sequences wait for a slot."""
        return bool(self._backlog)

    def of(self, instance: int) -> Sequence[RunningSequence | None]:
        """Return what is in the slots of an instance, as it changes."""
        return self._slots[instance]

    def taken(self, instance: int) -> list[RunningSequence]:
        """Return the sequences that have a slot of an instance now."""
        return [sequence for sequence in self._slots[instance] if sequence is not None]

    def seat(self, sequence: RunningSequence) -> None:
        """Give the sequence a slot, of the instance that has the most; if there is none, it waits for one."""
        instance = max(range(len(self._free)), key=lambda one: len(self._free[one]))
        if not self._free[instance]:
            self._backlog[sequence] = None
            return
        sequence.instance = instance
        sequence.slot = heapq.heappop(self._free[instance])
        self._slots[instance][sequence.slot] = sequence

    def leave(self, sequence: RunningSequence) -> None:
        """Let the sequence wait for no slot, and give the one that it has to whichever waited longest."""
        self._backlog.pop(sequence, None)
        if sequence.slot < 0:
            return
        self._slots[sequence.instance][sequence.slot] = None
        heapq.heappush(self._free[sequence.instance], sequence.slot)
        sequence.slot = -1
        if self._backlog:
            first = next(iter(self._backlog))
            del self._backlog[first]
            self.seat(first)


def turn_of(work: Work) -> SequenceTurn:
    """Return where in its sequence the work stands. Raises InvalidInput if it is in none."""
    if work.sequence is None:
        raise InvalidInput("the request is in no sequence: parameter 'sequence_id' expected")
    return work.sequence
