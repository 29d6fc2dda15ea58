from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_server.core.model import Limits, Model
from headrace_server.core.queue import NEVER, QueueFull, Taken
from headrace_server.core.request import NO_DEADLINE, State, Work
from headrace_server.core.request_queue import MOST_SECONDS_BEHIND, RequestQueue
from headrace_server.core.settings import ModelSettings, QueuePolicy

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()
Shapes = tuple[tuple[int, ...], ...] | None


def work(
    name: str = "",
    *,
    deadline: float = NO_DEADLINE,
    rows: int = 1,
    size_bytes: int = 8,
    shapes: Shapes = None,
    came: float = 0.0,
) -> Work:
    return work_of(
        MODEL, SINK, name, rows=rows, size_bytes=size_bytes, shapes=shapes, deadline=deadline,
        queued_ns=round(came * 1e9),
    )  # fmt: skip


def names(works: list[Work]) -> list[str]:
    return [one.id for one in works]


def queue_of(*works: Work, max_requests: int = 100, max_bytes: int = 10_000) -> RequestQueue:
    queue = RequestQueue(max_requests, max_bytes)
    for one in works:
        queue.push(one)
    return queue


@pytest.mark.parametrize(
    ("waiting", "max_rows", "now", "batch", "late"),
    [
        pytest.param([], 8, 0, "", "", id="nothing"),
        pytest.param([work("a"), work("b")], 8, 0, "ab", "", id="in the order of arrival"),
        pytest.param(
            [work("a"), work("b", deadline=0.9), work("c", deadline=0.5)],
            8,
            0,
            "cba",
            "",
            id="deadlines first",
        ),
        pytest.param([work("a", deadline=0.5), work("b", deadline=0.5)], 1, 0, "a", "", id="equal deadlines"),
        pytest.param([work("a", rows=3), work("b", rows=3)], 5, 0, "a", "", id="as many as fit"),
        pytest.param([work("a", rows=2), work("b", rows=2), work("c")], 4, 0, "ab", "", id="exactly full"),
        pytest.param(
            [work("a", deadline=0.5), work("b")], 8, 0.5, "b", "a", id="late at the deadline itself"
        ),
        pytest.param([work("a", deadline=5)], 8, 6, "", "a", id="all late"),
        pytest.param(
            [work("a", shapes=((1, 2),)), work("b", shapes=((1, 3),)), work("c", shapes=((1, 2),))],
            8,
            0,
            "ac",
            "",
            id="equal shapes",
        ),
        pytest.param(
            [work("a", shapes=((1, 2),), deadline=0.9), work("b", shapes=((1, 3),), deadline=0.5)],
            8,
            0,
            "b",
            "",
            id="the shape of the earliest deadline",
        ),
    ],
)
def test_what_is_taken(waiting: list[Work], max_rows: int, now: float, batch: str, late: str) -> None:
    for one in waiting:
        one.state = State.QUEUED
    taken, missed, *_ = queue_of(*waiting).take(max_rows, now)
    assert "".join(names(taken)) == batch
    assert "".join(names(missed)) == late


def test_the_earliest_deadline_is_found_behind_cancelled_work_of_another_shape() -> None:
    gone = work("gone", shapes=((1, 2),), deadline=0.1)
    later = work("later", shapes=((1, 2),), deadline=0.9)
    soon = work("soon", shapes=((1, 3),), deadline=0.5)
    queue = queue_of(gone, later, soon)
    queue.discard(gone)
    assert names(queue.take(8, 0)[0]) == ["soon"]


def test_the_earliest_deadline_is_found_behind_late_work_of_another_shape() -> None:
    late = work("late", shapes=((1, 2),), deadline=0.1)
    later = work("later", shapes=((1, 2),), deadline=0.9)
    soon = work("soon", shapes=((1, 3),), deadline=0.5)
    queue = queue_of(late, later, soon)
    taken, missed, *_ = queue.take(8, 0.2)
    assert (names(taken), names(missed)) == (["soon"], ["late"])


def test_a_full_queue_takes_no_more_and_keeps_what_it_has() -> None:
    queue = queue_of(work("a"), work("b"), max_requests=2)
    with pytest.raises(QueueFull, match="2 requests wait, which is the limit"):
        queue.push(work("c"))
    assert names(queue.take(8, 0)[0]) == ["a", "b"]


def test_bytes_are_bounded_and_a_request_of_any_size_may_wait_alone() -> None:
    queue = queue_of(work("large", size_bytes=50), max_bytes=30)
    with pytest.raises(QueueFull, match="50 bytes wait, the limit is 30"):
        queue.push(work("small", size_bytes=1))
    queue.take(8, 0)
    queue.push(work("small", size_bytes=1))


def test_cancelled_work_frees_its_place_at_once_and_lets_go_of_its_tensors() -> None:
    first = work("a", rows=3, size_bytes=30)
    queue = queue_of(first, max_requests=1, max_bytes=30)
    queue.discard(first)
    assert first.state is State.ENDED
    assert first.data == ()
    assert (queue.requests, queue.rows, queue.size_bytes) == (0, 0, 0)
    queue.push(work("b", size_bytes=30))
    assert names(queue.take(8, 0)[0]) == ["b"]


def test_invariant_4_a_hundred_thousand_cancelled_requests_leave_no_memory_behind() -> None:
    queue = queue_of(work("stays"))

    def cancel_many(count: int) -> None:
        for number in range(count):
            shapes = ((1, number % 7),) if number % 2 else None
            one = work(deadline=float(number), shapes=shapes)
            queue.push(one)
            queue.discard(one)

    cancel_many(1_000)
    tracemalloc.start()
    try:
        cancel_many(99_000)
        grown_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200_000, f"{grown_bytes} bytes are left, {peak_bytes} at the peak"
    assert names(queue.take(8, 0)[0]) == ["stays"]


def test_clearing_returns_what_waits_and_not_what_was_cancelled() -> None:
    gone = work("gone")
    queue = queue_of(work("a"), gone, work("b", shapes=((1, 2),)))
    queue.discard(gone)
    cleared = queue.clear()
    assert sorted(names(cleared)) == ["a", "b"]
    assert all(one.state is State.TAKEN for one in cleared)
    assert (queue.requests, queue.rows, queue.size_bytes) == (0, 0, 0)
    assert queue.take(8, 0) == Taken([], [], NEVER)


def test_a_level_that_is_full_says_how_many_rows_are_before_it() -> None:
    settings = ModelSettings(
        priority_levels=3, default_priority=1, policies=MappingProxyType({2: QueuePolicy(max_queue_size=1)})
    )
    queue = RequestQueue(100, 10_000, settings)
    for level, rows in ((1, 4), (2, 2), (3, 8)):
        queue.push(work_of(MODEL, SINK, rows=rows, priority=level))
    with pytest.raises(QueueFull, match="1 requests of priority 2 wait, its limit is 1") as full:
        queue.push(work_of(MODEL, SINK, priority=2))
    assert full.value.rows == 6
    queue.push(work_of(MODEL, SINK, priority=3))
    queue.take(8, 0.0)
    queue.push(work_of(MODEL, SINK, priority=2))


def test_a_model_without_levels_has_the_limit_of_its_policy_if_that_is_less() -> None:
    for told, server, limit in ((2, 100, 2), (100, 2, 2), (0, 2, 2)):
        queue = RequestQueue(server, 10_000, ModelSettings(default_policy=QueuePolicy(max_queue_size=told)))
        for _ in range(limit):
            queue.push(work())
        with pytest.raises(QueueFull, match=f"{limit} requests wait, which is the limit"):
            queue.push(work())


def test_a_request_that_is_overdue_is_executed_after_those_that_are_not() -> None:
    queue = queue_of(
        *(work_of(MODEL, SINK, name, overdue_us=us) for name, us in (("a", 5), ("b", 0), ("c", 1)))
    )
    assert names(queue.take(1, 1.5e-6).batch) == ["a"], "the first, and not overdue"
    assert names(queue.take(8, 1.5e-6).batch) == ["b", "c"]


def test_invariant_4_nothing_is_left_behind_of_a_hundred_thousand_requests_that_may_be_overdue() -> None:
    queue = RequestQueue(100, 10_000)
    for _ in range(100_000):
        queue.push(work_of(MODEL, SINK, overdue_us=60_000_000))
        assert len(queue.take(8, 0.0).batch) == 1
    assert len(queue._overdue) < 200


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.2, 2.0, 5.0, NO_DEADLINE])), min_size=1
    ),
    st.integers(1, 3),
)
def test_nobody_is_put_behind_what_comes_a_second_later(
    arrivals: list[tuple[float, float]], per_take: int
) -> None:
    """An engine that is slower than they come, so that what waits grows and all ages are there."""
    queue = queue_of()
    now = 0.0
    waiting: list[Work] = []
    for number, (gap, patience) in enumerate(arrivals):
        now += gap
        one = work(deadline=now + patience, came=now)
        queue.push(one)
        waiting.append(one)
        if number % (per_take + 1) == 0:
            batch, missed, *_ = queue.take(1, now)
            waiting = [other for other in waiting if other not in (*batch, *missed)]
            for taken in batch:
                oldest = min((other.queued_ns for other in waiting), default=taken.queued_ns)
                assert taken.queued_ns * 1e-9 <= oldest * 1e-9 + MOST_SECONDS_BEHIND


def test_a_caller_without_a_deadline_has_its_turn_among_any_number_of_others_who_have_one() -> None:
    queue = queue_of(work("patient", came=0.0))
    taken: list[str] = []
    for tick in range(1, 30):
        for _ in range(2):
            queue.push(work("hurried", deadline=tick / 10 + 5, came=tick / 10))
        taken += names(queue.take(1, tick / 10).batch)
    assert "patient" in taken
    assert taken[0] == "patient", "a deadline beyond a second is none to go before others for"


@dataclass
class Waiting:
    """The simple model: a list, sorted at each question."""

    works: list[tuple[float, int, Work]] = field(default_factory=list)
    arrivals: int = 0

    def next_batch(self, max_rows: int, now: float) -> list[Work]:
        alive = sorted(entry for entry in self.works if entry[2].deadline > now)
        batch: list[Work] = []
        rows = 0
        for _, _, one in alive:
            if one.shapes != alive[0][2].shapes:
                continue
            if batch and rows + one.rows > max_rows:
                break
            batch.append(one)
            rows += one.rows
        return batch


class QueueAgainstAList(RuleBasedStateMachine):
    """Pushes, cancels and takes in any order; the queue and the list say the same."""

    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.queue = RequestQueue(max_requests=12, max_bytes=100)
        self.model = Waiting()
        self.now = 0.0

    @rule(
        target=waiting,
        patience=st.one_of(st.just(NO_DEADLINE), st.integers(1, 40).map(lambda tenths: tenths / 10)),
        rows=st.integers(1, 4),
        size_bytes=st.integers(0, 40),
        shapes=st.sampled_from([None, ((1, 2),), ((1, 3),)]),
    )
    def push(self, patience: float, rows: int, size_bytes: int, shapes: Shapes) -> Work:
        deadline = self.now + patience
        one = work(deadline=deadline, rows=rows, size_bytes=size_bytes, shapes=shapes, came=self.now)
        waiting_bytes = sum(entry[2].size_bytes for entry in self.model.works)
        full = len(self.model.works) >= 12 or (self.model.works and waiting_bytes + size_bytes > 100)
        if full:
            with pytest.raises(QueueFull):
                self.queue.push(one)
            one.state = State.ENDED
        else:
            self.queue.push(one)
            self.model.arrivals += 1
            behind = min(deadline, one.queued_ns * 1e-9 + MOST_SECONDS_BEHIND)
            self.model.works.append((behind, self.model.arrivals, one))
        return one

    @rule(one=consumes(waiting))
    def cancel(self, one: Work) -> None:
        if one.state is State.QUEUED:
            self.queue.discard(one)
            self.model.works = [entry for entry in self.model.works if entry[2] is not one]

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 4]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.model.works)
    @rule(max_rows=st.integers(1, 6))
    def take(self, max_rows: int) -> None:
        expected = self.model.next_batch(max_rows, self.now)
        batch, late, *_ = self.queue.take(max_rows, self.now)
        assert batch == expected
        gone = {id(one) for one in (*batch, *late)}
        assert all(one.deadline <= self.now for one in late)
        assert all(one.state is State.TAKEN for one in (*batch, *late))
        self.model.works = [entry for entry in self.model.works if id(entry[2]) not in gone]

    @invariant()
    def counts_agree(self) -> None:
        works = [entry[2] for entry in self.model.works]
        assert self.queue.requests == len(works)
        assert self.queue.rows == sum(one.rows for one in works)
        assert self.queue.size_bytes == sum(one.size_bytes for one in works)


QueueAgainstAList.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_any_order_of_events_gives_what_a_sorted_list_gives = QueueAgainstAList.TestCase
