"""What waits for a model that keeps state between the requests of a sequence: the direct strategy.

Each sequence has one slot of one instance of the model, from its first request to its last; an instance
has as many slots as its batches have rows. Requests of one sequence are executed one at a time, in the
order in which they came, and a batch has at most one of each. Sequences beyond the slots wait for one.

A slot is free again when its sequence's last request has been executed, or when nothing came for the
sequence for `max_idle_us`. A first request for a sequence that runs begins it anew, after what came
before. A request that is cancelled or expires while it waits is left out, as though it had never come; if
it was the first of its sequence, those behind it cannot be executed either: they are orphans, given back
to be refused, and a sequence that it would have begun anew ends before it.

A plain data structure without a lock, a clock or a thread, as `RequestQueue` is.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace_server.core.queue import NEVER, QueueFull, Taken
from headrace_server.core.request import ENDED, TAKEN, Work
from headrace_server.core.sequence_controls import SequenceControls
from headrace_server.core.sequence_slots import RunningSequence, Slots, turn_of
from headrace_server.core.settings import Sequences
from headrace_server.errors import InvalidInput


class SequenceQueue:
    """Accepted work of sequences, in the order in which it should be executed. Implements `queue.Queue`."""

    def __init__(
        self,
        model: str,
        sequences: Sequences,
        controls: SequenceControls,
        *,
        instances: int,
        slots: int,
        max_requests: int,
        max_bytes: int,
    ) -> None:
        """`slots` are those of each instance."""
        self._model = model
        self._controls = controls
        self._max_idle = sequences.max_idle_us * 1e-6
        self._max_delay = sequences.max_queue_delay_us * 1e-6
        self._enough_ready = sequences.minimum_slot_utilization * slots
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._known: dict[int | str, RunningSequence] = {}
        self._slots = Slots(instances, slots)
        self.requests = 0
        self.size_bytes = 0

    @property
    def rows(self) -> int:
        """Rows of the requests that wait: each has one."""
        return self.requests

    def push(self, work: Work) -> None:
        """Let the work wait. Raises QueueFull, or InvalidInput where it is in no sequence that runs."""
        turn = turn_of(work)
        if work.rows != 1:
            raise InvalidInput(
                f"a batch of {work.rows} rows came for sequence {turn.id}, model {self._model!r} takes one "
                "row of a sequence at a time"
            )
        self._controls.check(turn)
        now = work.queued_ns * 1e-9
        sequence = self._known.get(turn.id)
        if sequence is not None and self._is_idle(sequence, now):
            self._end(sequence)
            sequence = None
        if not turn.start and (sequence is None or not sequence.is_open):
            raise InvalidInput(
                f"inference request for sequence {turn.id} to model {self._model!r} must specify the START "
                "flag on the first request of the sequence (parameter sequence_start)"
            )
        self._check_limits(work)
        if sequence is None:
            sequence = self._known[turn.id] = RunningSequence(turn.id)
            self._slots.seat(sequence)
        sequence.waiting.append(work)
        sequence.last_active = now
        self._count(work, 1)

    def discard(self, work: Work) -> list[Work]:
        """End work that still waits, and return its orphans, which have left the queue."""
        orphans = self._remove(self._known[turn_of(work).id], work)
        self._count(work, -1)
        work.state = ENDED
        work.data = ()
        return orphans

    def take(self, max_rows: int, now: float, *, instance: int = 0, hurry: bool = False) -> Taken:
        """Remove the next batch of this instance: at most one request of each of its sequences.

        They stand in the order of their slots, and have the shapes of the one that has waited longest.
        The batch is empty if no slot has enough to execute: see `Sequences.minimum_slot_utilization`.
        """
        self._free_idle(instance, now, hurry=hurry)
        missed: list[Work] = []
        orphans: list[Work] = []
        ready = self._ready(instance, now, missed, orphans)
        again_at = self._idle_at(instance)
        batch: list[Work] = []
        if ready:
            oldest = min((sequence.waiting[0] for sequence in ready), key=_queued_ns)
            due = oldest.queued_ns * 1e-9 + self._max_delay
            if hurry or now >= due or len(ready) >= self._enough_ready:
                chosen = [one for one in ready if one.waiting[0].shapes == oldest.shapes]
                batch = [self._begin(one) for one in chosen[:max_rows]]
            else:
                again_at = min(again_at, due)
        return Taken(batch, missed, again_at, orphans)

    def finished(self, works: Iterable[Work], now: float) -> None:
        """Let the sequences of a batch that was executed go on, and free the slots of those that ended."""
        for work in works:
            turn = turn_of(work)
            sequence = self._known[turn.id]
            sequence.running = None
            sequence.last_active = now
            if turn.end:
                self._end(sequence)

    def clear(self) -> list[Work]:
        """Remove and return everything that waits."""
        works = [work for sequence in self._known.values() for work in sequence.waiting]
        for work in works:
            self._leave(work)
        for sequence in list(self._known.values()):
            sequence.waiting.clear()
            if sequence.running is None:
                self._end(sequence)
        return works

    def _ready(
        self, instance: int, now: float, missed: list[Work], orphans: list[Work]
    ) -> list[RunningSequence]:
        """Return the sequences of an instance whose next request can be executed and is in time."""
        ready = []
        slots = self._slots.of(instance)
        for slot in range(len(slots)):
            # A sequence that has nothing left gives its slot to another, which may be late as well.
            while (sequence := slots[slot]) is not None and sequence.is_ready:
                work = sequence.waiting[0]
                if now < work.deadline:
                    ready.append(sequence)
                    break
                orphans += self._remove(sequence, work)
                self._leave(work)
                missed.append(work)
        return ready

    def _begin(self, sequence: RunningSequence) -> Work:
        work = sequence.waiting.popleft()
        work.sequence = turn_of(work)._replace(slot=sequence.slot)
        sequence.running = work
        sequence.begun = True
        self._leave(work)
        return work

    def _remove(self, sequence: RunningSequence, work: Work) -> list[Work]:
        """Take the work out of its sequence, as though it had never come; return its orphans."""
        waiting = sequence.waiting
        place = waiting.index(work)
        del waiting[place]
        orphans = []
        if turn_of(work).start:
            while place < len(waiting) and not turn_of(waiting[place]).start:
                orphans.append(waiting[place])
                self._leave(waiting[place])
                del waiting[place]
            before = waiting[place - 1] if place else sequence.running
            if before is not None:
                before.sequence = turn_of(before)._replace(end=True)
            else:
                sequence.begun = False
        if sequence.is_resting and not sequence.begun:
            self._end(sequence)
        return orphans

    def _end(self, sequence: RunningSequence) -> None:
        """Free the sequence's slot for the one that waited longest; what it has left begins the next one."""
        sequence.begun = False
        self._slots.leave(sequence)
        if sequence.waiting:
            self._slots.seat(sequence)
        else:
            del self._known[sequence.id]

    def _free_idle(self, instance: int, now: float, *, hurry: bool) -> None:
        """End an instance's sequences that are idle, or will have nothing more, while others wait."""
        if not self._slots.are_wanted:
            return
        for sequence in self._slots.taken(instance):
            if (hurry and sequence.is_resting) or self._is_idle(sequence, now):
                self._end(sequence)

    def _is_idle(self, sequence: RunningSequence, now: float) -> bool:
        return sequence.is_resting and now >= sequence.last_active + self._max_idle

    def _idle_at(self, instance: int) -> float:
        """Return when the next sequence of an instance will be idle, if others wait for its slot."""
        if not self._slots.are_wanted:
            return NEVER
        resting = [one for one in self._slots.taken(instance) if one.is_resting]
        return min((one.last_active + self._max_idle for one in resting), default=NEVER)

    def _check_limits(self, work: Work) -> None:
        if self.requests >= self._max_requests:
            raise QueueFull(f"{self.requests} requests wait, which is the limit", self.rows)
        if self.requests and self.size_bytes + work.size_bytes > self._max_bytes:
            raise QueueFull(f"{self.size_bytes} bytes wait, the limit is {self._max_bytes}", self.rows)

    def _leave(self, work: Work) -> None:
        work.state = TAKEN
        self._count(work, -1)

    def _count(self, work: Work, by: int) -> None:
        self.requests += by
        self.size_bytes += by * work.size_bytes


def _queued_ns(work: Work) -> int:
    return work.queued_ns
