"""Whatever happens to a model, in whatever order: each request is settled once, and the figures add up."""

from __future__ import annotations

import time

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_engines.steps import SequenceTurn
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, State, Work
from headrace_server.core.settings import ModelSettings, QueuePolicy, Sequences
from headrace_server.core.statistics import Execution, FailReason
from headrace_server.errors import DeviceLost, EngineFailed, InvalidInput, Overloaded, ShuttingDown

INSTANCES = 2
MOST_REQUESTS = 6
PASSED = 0.0
"""A deadline that has passed on any clock."""

SCHEDULES = [
    ModelSettings(instances=INSTANCES),
    ModelSettings(instances=INSTANCES, preserve_ordering=True),
    ModelSettings(
        instances=INSTANCES,
        priority_levels=2,
        default_priority=1,
        default_policy=QueuePolicy(max_queue_size=4),
    ),
    ModelSettings(instances=INSTANCES, preferred_batch_sizes=(2,), max_queue_delay_us=60_000_000),
    ModelSettings(instances=INSTANCES, sequences=Sequences(max_idle_us=60_000_000)),
]


class ModelInAnyOrder(RuleBasedStateMachine):
    """Callers and engines do what they may at any time; a list of what came tells what must be true."""

    @initialize(schedule=st.sampled_from(SCHEDULES))
    def begin(self, schedule: ModelSettings) -> None:
        self.schedule = schedule
        self.losses = 0
        limits = Limits(max_queue_size=MOST_REQUESTS)
        self.model = Model("m", "1", ROWS, "scripted", limits, self.note_loss, settings=schedule)
        self.sink = Answers()
        self.refused = 0
        self.accepted: list[Work] = []
        self.unheard: set[Work] = set()
        """Ended without an answer, because their callers had gone."""
        self.in_hand: list[list[Work]] = [[] for _ in range(INSTANCES)]
        self.running = set(range(INSTANCES))
        self.is_closed = False

    def note_loss(self) -> None:
        self.losses += 1

    @property
    def waiting(self) -> list[Work]:
        return [work for work in self.accepted if work.state is State.QUEUED and not self.answered(work)]

    def answered(self, work: Work) -> bool:
        """Whether an answer was given for it, though it may be held back for those before it."""
        return work.data == ()

    @rule(
        rows=st.integers(1, 5),
        level=st.integers(1, 2),
        is_late=st.booleans(),
        hold=st.booleans(),
        turn=st.builds(SequenceTurn, st.integers(1, 3), st.booleans(), st.booleans()),
    )
    def submit(self, rows: int, level: int, is_late: bool, hold: bool, turn: SequenceTurn) -> None:
        has_turns = self.schedule.sequences is not None
        work = work_of(
            self.model, self.sink, rows=1 if has_turns else rows, queued_ns=time.monotonic_ns(),
            priority=min(level, self.schedule.priority_levels), deadline=PASSED if is_late else NO_DEADLINE,
            sequence=turn if has_turns else None, reply=len(self.accepted),
        )  # fmt: skip
        try:
            self.model.submit(work, hold=hold)
        except ShuttingDown:
            assert self.is_closed
        except DeviceLost:
            assert self.model.lost is not None
            self.refused += 1
        except Overloaded:
            assert len(self.waiting) >= min(MOST_REQUESTS, self.schedule.default_policy.max_queue_size or 99)
            self.refused += 1
        except InvalidInput:
            assert has_turns
            assert not turn.start
            self.refused += 1
        else:
            assert len(self.waiting) < MOST_REQUESTS
            self.accepted.append(work)

    @rule()
    def release(self) -> None:
        self.model.release()

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.accepted))
        if work in self.waiting:
            self.unheard.add(work)
        self.model.cancel(work)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        self.model.expire(data.draw(st.sampled_from(self.accepted)))

    @rule(instance=st.integers(0, INSTANCES - 1))
    def take(self, instance: int) -> None:
        if self.in_hand[instance] or instance not in self.running:
            return
        waiting = self.waiting
        batch = self.model.take(wait=False, instance=instance)
        if batch is None:
            assert self.is_closed or self.model.lost is not None
            assert self.model.lost is not None or not self.waiting
            self.running.discard(instance)
            return
        assert sum(work.rows for work in batch) <= ROWS.max_batch_size
        assert all(work in waiting and work.deadline != PASSED for work in batch)
        self.in_hand[instance] = batch

    @precondition(lambda self: any(self.in_hand))
    @rule(data=st.data(), instance=st.integers(0, INSTANCES - 1), in_parts=st.booleans())
    def answer(self, data: st.DataObject, instance: int, in_parts: bool) -> None:
        """Answer a batch, at once or request by request; some cannot be encoded, some have no caller left."""
        works, self.in_hand[instance] = self.in_hand[instance], []
        if not works:
            return
        gone = [work for work in works if work.abandoned]
        self.model.drop(gone)
        self.unheard.update(gone)
        answers = [
            (work, InvalidInput("not written") if data.draw(st.booleans()) else b"rows")
            for work in works
            if not work.abandoned
        ]
        groups = [[one] for one in answers] if in_parts else [answers]
        now_ns = time.monotonic_ns()
        rows = sum(work.rows for work in works)
        for number, group in enumerate(groups, start=1):
            goes_on = number < len(groups)
            self.model.executed(group, Execution(rows, now_ns, now_ns + 1, now_ns + 2, now_ns + 3, goes_on))
        self.model.finished(works)

    @precondition(lambda self: any(self.in_hand))
    @rule(instance=st.integers(0, INSTANCES - 1))
    def fail(self, instance: int) -> None:
        works, self.in_hand[instance] = self.in_hand[instance], []
        self.model.fail(works, EngineFailed("model 'm': the engine failed", "0"))
        self.model.finished(works)

    @precondition(lambda self: len(self.accepted) > 8)
    @rule(instance=st.integers(0, INSTANCES - 1))
    def lose(self, instance: int) -> None:
        if instance in self.running:
            works, self.in_hand[instance] = self.in_hand[instance], []
            self.running.discard(instance)
            self.model.lose("its device is gone", works)
            assert self.losses == 1
            assert not self.waiting
            assert self.model.lost == "its device is gone"

    @precondition(lambda self: len(self.accepted) > 8)
    @rule(drain=st.booleans())
    def close(self, drain: bool) -> None:
        self.model.close(drain=drain)
        self.is_closed = True
        assert drain or not self.waiting

    @invariant()
    def figures_add_up(self) -> None:
        if not hasattr(self, "model"):
            return
        figures = self.model.snapshot()
        in_hand = sum(map(len, self.in_hand))
        assert self.model.waiting == len(self.waiting) <= MOST_REQUESTS
        settled = len(self.accepted) - len(self.waiting) - in_hand
        assert figures.success.count + figures.fail.count + figures.cancel.count == settled + self.refused
        left_in_time = sum(work.deadline != PASSED for work in self.unheard)
        assert figures.cancel.count == figures.failures[FailReason.CANCELED] == left_in_time
        assert sum(figures.failures.values()) == figures.fail.count + figures.cancel.count
        for histogram in (figures.queue_seconds, figures.compute_seconds, figures.request_seconds):
            assert sum(histogram.counts) == figures.success.count
        assert sum(figures.batch_size.counts) == figures.execution_count
        assert sum(map(len, self.sink.by_key.values())) <= settled

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        self.model.close(drain=False)
        for instance, works in enumerate(self.in_hand):
            self.model.lose(f"instance {instance} went as well", works)
        assert self.model.take(wait=True) is None
        assert all(work.state is State.ENDED for work in self.accepted)
        told = {key: len(answers) for key, answers in self.sink.by_key.items() if answers}
        heard = [key for key, work in enumerate(self.accepted) if work not in self.unheard]
        assert told == dict.fromkeys(heard, 1), "each caller who stays has one answer, the others have none"
        if self.schedule.preserve_ordering:
            assert list(self.sink.by_key) == heard


ModelInAnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_invariant_1_any_order_of_events_settles_each_request_once = ModelInAnyOrder.TestCase
