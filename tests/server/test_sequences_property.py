"""Any order of events keeps what a sequence is promised."""

from __future__ import annotations

import collections

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_engines.steps import SequenceTurn
from headrace_server.core.model import Limits, Model
from headrace_server.core.queue import QueueFull
from headrace_server.core.request import NO_DEADLINE, State, Work
from headrace_server.core.sequence_controls import SequenceControls
from headrace_server.core.sequences import SequenceQueue
from headrace_server.core.settings import Sequences
from headrace_server.errors import InvalidInput

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()
INSTANCES, SLOTS, MOST_REQUESTS = 2, 2, 12


class SequencesInAnyOrder(RuleBasedStateMachine):
    """Keeps a list of what was accepted, and looks at each thing that the queue gives."""

    def __init__(self) -> None:
        super().__init__()
        told = Sequences(max_idle_us=5_000_000)
        self.queue = SequenceQueue(
            "m",
            told,
            SequenceControls(told, has_batch_axis=True),
            instances=INSTANCES,
            slots=SLOTS,
            max_requests=MOST_REQUESTS,
            max_bytes=10_000,
        )
        self.now = 0.0
        self.waiting: list[Work] = []
        self.running: dict[int, list[Work]] = {}
        self.begun: dict[int | str, tuple[int, int]] = {}
        """By id, where the sequence runs: its instance and slot."""

    @rule(
        sequence_id=st.integers(1, 7),
        start=st.booleans(),
        end=st.booleans(),
        patience=st.sampled_from([NO_DEADLINE, NO_DEADLINE, 2.0]),
    )
    def push(self, sequence_id: int, start: bool, end: bool, patience: float) -> None:
        turn = SequenceTurn(sequence_id, start, end)
        queued_ns = int(self.now * 1e9)
        one = work_of(MODEL, SINK, deadline=self.now + patience, queued_ns=queued_ns, sequence=turn)
        try:
            self.queue.push(one)
        except QueueFull:
            assert len(self.waiting) == MOST_REQUESTS
        except InvalidInput:
            assert not start
        else:
            self.waiting.append(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        orphans = self.queue.discard(one)
        assert one.state is State.ENDED
        self._refused(one, orphans)

    @rule(instance=st.integers(0, INSTANCES - 1), hurry=st.booleans())
    def take(self, instance: int, hurry: bool) -> None:
        if instance in self.running:
            return
        taken = self.queue.take(SLOTS, self.now, instance=instance, hurry=hurry)
        assert all(one.deadline <= self.now for one in taken.missed)
        for one in (*taken.missed, *taken.orphans):
            self.waiting.remove(one)
        places = [self._began(one, instance) for one in taken.batch]
        assert len(set(places)) == len(places)
        if taken.batch:
            self.running[instance] = taken.batch

    @rule(instance=st.integers(0, INSTANCES - 1))
    def finish(self, instance: int) -> None:
        works = self.running.pop(instance, [])
        self.queue.finished(works, self.now)
        for one in works:
            assert one.sequence is not None
            if one.sequence.end:
                del self.begun[one.sequence.id]

    @rule(seconds=st.integers(1, 6))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds

    def _began(self, one: Work, instance: int) -> int:
        turn = one.sequence
        assert turn is not None
        assert 0 <= turn.slot < SLOTS
        assert one.deadline > self.now
        others = [w for works in self.running.values() for w in works]
        assert turn.id not in [w.sequence.id for w in others if w.sequence is not None]
        same = [w for w in self.waiting if w.sequence is not None and w.sequence.id == turn.id]
        assert same[0] is one, "the requests of a sequence are executed in the order in which they came"
        self.waiting.remove(one)
        place = (instance, turn.slot)
        if not turn.start:
            assert self.begun[turn.id] == place, "a sequence keeps its slot"
        # Whoever had the slot before was idle, or was given up.
        self.begun = {key: held for key, held in self.begun.items() if held != place}
        self.begun[turn.id] = place
        return turn.slot

    def _refused(self, one: Work, orphans: collections.abc.Sequence[Work]) -> None:
        turn = one.sequence
        assert turn is not None
        assert turn.start or not orphans
        for orphan in orphans:
            assert orphan.sequence is not None
            assert (orphan.sequence.id, orphan.sequence.start) == (turn.id, False)
            assert orphan.state is State.TAKEN
            self.waiting.remove(orphan)
        self.waiting.remove(one)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.requests == self.queue.rows == len(self.waiting)
        assert all(one.state is State.QUEUED for one in self.waiting)

    def teardown(self) -> None:
        """Nothing more comes: all that was accepted is executed or missed."""
        for _ in range(2 * MOST_REQUESTS):
            for instance in range(INSTANCES):
                self.finish(instance)
                self.take(instance, hurry=True)
        assert not self.waiting
        for instance in range(INSTANCES):
            self.finish(instance)


SequencesInAnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_any_order_of_events_keeps_what_a_sequence_is_promised = SequencesInAnyOrder.TestCase
