"""The queue of a model with priorities, queue policies, delays or a fixed order, against a sorted list."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_server.core.model import Limits, Model
from headrace_server.core.queue import NEVER, QueueFull
from headrace_server.core.request import NO_DEADLINE, Shapes, State, Work
from headrace_server.core.request_queue import MOST_SECONDS_BEHIND, RequestQueue
from headrace_server.core.settings import ModelSettings, QueuePolicy

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()
BEST_SIZES = (1, 4, 8)

LEVELS = ModelSettings(priority_levels=3, default_priority=2)
SCHEDULES = [
    ModelSettings(),
    LEVELS,
    ModelSettings(
        priority_levels=3,
        default_priority=2,
        default_policy=QueuePolicy(max_queue_size=3),
        policies=MappingProxyType({1: QueuePolicy(max_queue_size=2)}),
    ),
    ModelSettings(preserve_ordering=True),
    ModelSettings(max_queue_delay_us=3_000_000),
    ModelSettings(preferred_batch_sizes=(2, 4), max_queue_delay_us=3_000_000),
    ModelSettings(priority_levels=2, default_priority=1, max_queue_delay_us=2_000_000),
    ModelSettings(preferred_batch_sizes=(4,), preserve_ordering=True),
]


class QueueUnderSettings(RuleBasedStateMachine):
    """Pushes, cancels, lets time pass and takes; what is taken is what the list says, or its beginning."""

    @initialize(schedule=st.sampled_from(SCHEDULES))
    def begin(self, schedule: ModelSettings) -> None:
        self.schedule = schedule
        self.queue = RequestQueue(20, 10_000, schedule, BEST_SIZES)
        self.waiting: list[Work] = []
        self.now = 100.0
        self.before: list[Work] = []
        self.again_at = NEVER

    @rule(
        level=st.integers(1, 3),
        patience=st.one_of(st.just(NO_DEADLINE), st.sampled_from([0.25, 0.75, 1, 2, 9])),
        overdue_seconds=st.sampled_from([0, 0, 1, 4]),
        rows=st.integers(1, 4),
        shapes=st.sampled_from([None, None, ((1, 2),)]),
    )
    def push(self, level: int, patience: float, overdue_seconds: int, rows: int, shapes: Shapes) -> None:
        level = min(level, self.schedule.priority_levels)
        one = work_of(
            MODEL, SINK, rows=rows, shapes=shapes, priority=level, deadline=self.now + patience,
            queued_ns=int(self.now * 1e9), overdue_us=overdue_seconds * 1_000_000,
        )  # fmt: skip
        policy = self.schedule.policies.get(level, self.schedule.default_policy)
        of_the_level = sum(other.priority == level for other in self.waiting)
        if len(self.waiting) >= 20 or 0 < policy.max_queue_size <= of_the_level:
            with pytest.raises(QueueFull):
                self.queue.push(one)
        else:
            self.queue.push(one)
            self.waiting.append(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        assert not self.queue.discard(one)
        assert (one.state, one.data) == (State.ENDED, ())
        self.waiting.remove(one)

    @rule(seconds=st.sampled_from([0.5, 1, 2, 5]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(max_rows=st.integers(1, 8))
    def take_in_a_hurry(self, max_rows: int) -> None:
        batch = self.taken(max_rows, hurry=True)
        assert batch is not None
        assert batch == self.before[: len(batch)]
        assert len(batch) == len(self.before)

    @rule(max_rows=st.integers(1, 8))
    def take(self, max_rows: int) -> None:
        batch = self.taken(max_rows, hurry=False)
        if batch is None:
            assert self.now < self.again_at < NEVER, "what waits for more is asked for again"
            assert all(one.deadline > self.again_at for one in self.before), "waiting costs nobody a deadline"
        else:
            assert batch == self.before[: len(batch)]
            assert batch or not self.before

    @precondition(lambda self: self.again_at < NEVER and self.waiting)
    @rule(max_rows=st.integers(1, 8))
    def take_when_it_is_due(self, max_rows: int) -> None:
        self.now = max(self.now, self.again_at)
        self.take(max_rows)

    def taken(self, max_rows: int, *, hurry: bool) -> list[Work] | None:
        """Take a batch, and return it; None if the queue wants to be asked again later."""
        self.before = self.expected(max_rows)
        taken = self.queue.take(max_rows, self.now, hurry=hurry)
        self.again_at = taken.again_at
        assert all(one.deadline <= self.now for one in taken.missed)
        assert all(one.state is State.TAKEN for one in (*taken.batch, *taken.missed))
        assert sum(one.rows for one in taken.batch) <= max_rows or len(taken.batch) == 1
        for one in (*taken.batch, *taken.missed):
            self.waiting.remove(one)
        return None if not taken.batch and self.before else taken.batch

    def expected(self, max_rows: int) -> list[Work]:
        """Return the largest batch that may be executed now."""
        alive = sorted((one for one in self.waiting if one.deadline > self.now), key=self.place)
        batch: list[Work] = []
        for one in (one for one in alive if one.shapes == alive[0].shapes):
            if batch and sum(other.rows for other in batch) + one.rows > max_rows:
                break
            batch.append(one)
        return batch

    def place(self, one: Work) -> tuple[float, ...]:
        arrival = self.waiting.index(one)
        if self.schedule.preserve_ordering:
            return (arrival,)
        behind = min(one.deadline, one.queued_ns * 1e-9 + MOST_SECONDS_BEHIND)
        return (one.priority, one.overdue_at <= self.now, behind, arrival)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.requests == len(self.waiting)
            assert self.queue.rows == sum(one.rows for one in self.waiting)
            assert self.queue.size_bytes == sum(one.size_bytes for one in self.waiting)

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            assert sorted(map(id, self.queue.clear())) == sorted(map(id, self.waiting))
            assert (self.queue.requests, self.queue.rows, self.queue.size_bytes) == (0, 0, 0)


QueueUnderSettings.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_any_order_of_events_gives_what_a_sorted_list_gives = QueueUnderSettings.TestCase
