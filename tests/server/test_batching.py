from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_server.core.batching import Batching, Decision
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.settings import ModelSettings

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()
MAX_ROWS = 16


class Waiting(NamedTuple):
    """A request: its rows, when it came, in seconds, and how urgent it is."""

    rows: int
    came: float = 0.0
    deadline: float = NO_DEADLINE
    priority: int = 0

    def work(self) -> Work:
        return work_of(
            MODEL,
            SINK,
            rows=self.rows,
            deadline=self.deadline,
            queued_ns=int(self.came * 1e9),
            priority=self.priority,
        )


def ones(count: int) -> list[Waiting]:
    return [Waiting(1)] * count


def decide(
    batching: Batching, waiting: list[Waiting], now: float, *, max_rows: int = MAX_ROWS, can_grow: bool = True
) -> Decision:
    return batching.decide([one.work() for one in waiting], max_rows, now, can_grow=can_grow)


DELAY = Batching(delay_seconds=2.0)
SIZES = Batching(preferred=(4, 8))
BOTH = Batching(preferred=(4, 8), delay_seconds=2.0)


@pytest.mark.parametrize(
    ("batching", "waiting", "now", "requests"),
    [
        pytest.param(SIZES, ones(3), 0, 3, id="nothing is waited for without a delay"),
        pytest.param(SIZES, ones(4), 0, 4, id="a preferred size"),
        pytest.param(SIZES, ones(6), 0, 4, id="the largest preferred size that is there"),
        pytest.param(SIZES, ones(16), 0, 8, id="no more than the largest preferred size"),
        pytest.param(SIZES, [Waiting(3), Waiting(4), Waiting(4)], 0, 2, id="as close below it as they come"),
        pytest.param(SIZES, [Waiting(10)], 0, 1, id="a request that is larger than any"),
        pytest.param(SIZES, [Waiting(10), Waiting(1)], 0, 2, id="the first is larger than any"),
        pytest.param(DELAY, ones(1), 1, 0, id="a batch that may grow waits"),
        pytest.param(DELAY, ones(1), 2, 1, id="until its oldest request has waited enough"),
        pytest.param(DELAY, [Waiting(1, came=1.5), Waiting(1, came=0.5)], 2.5, 2, id="not always the first"),
        pytest.param(DELAY, ones(16), 0, 16, id="a full batch does not wait"),
        pytest.param(DELAY, [Waiting(1, deadline=1.5)], 1, 1, id="nobody's deadline passes in waiting"),
        pytest.param(DELAY, [Waiting(1), Waiting(1, deadline=2)], 1, 2, id="nor one at the end of it"),
        pytest.param(DELAY, [Waiting(1, deadline=9)], 1, 0, id="a deadline that is far"),
        pytest.param(BOTH, ones(3), 1, 0, id="less than any preferred size waits"),
        pytest.param(BOTH, ones(5), 1, 4, id="a preferred size does not"),
        pytest.param(BOTH, ones(5), 2, 5, id="everything goes with what has waited enough"),
        pytest.param(BOTH, [Waiting(5), Waiting(1)], 1, 0, id="no preferred size on the way"),
        pytest.param(BOTH, [Waiting(5), Waiting(6)], 1, 1, id="the largest would be passed"),
    ],
)  # fmt: skip
def test_what_is_executed_now(batching: Batching, waiting: list[Waiting], now: float, requests: int) -> None:
    assert decide(batching, waiting, now).requests == requests


@pytest.mark.parametrize("waiting", [ones(1), ones(3), [Waiting(5)]])
def test_what_cannot_grow_is_executed_at_once(waiting: list[Waiting]) -> None:
    assert decide(BOTH, waiting, 0, can_grow=False).requests == len(waiting)


@pytest.mark.parametrize(
    ("batching", "waiting", "enough_rows"),
    [(BOTH, ones(1), 4), (BOTH, [Waiting(5)], 8), (DELAY, ones(3), MAX_ROWS)],
)
def test_a_batch_that_waits_says_until_when_and_for_how_much(
    batching: Batching, waiting: list[Waiting], enough_rows: int
) -> None:
    assert decide(batching, waiting, 1) == Decision(0, 2.0, enough_rows)


@pytest.mark.parametrize(("rows", "decision"), [(3, Decision(0, 2.0, 4)), (4, Decision(4))])
def test_a_batch_is_full_that_is_as_large_as_batches_may_be_for_now(rows: int, decision: Decision) -> None:
    assert decide(Batching(preferred=(8,), delay_seconds=2.0), ones(rows), 1, max_rows=4) == decision


LEVELS = Batching(steps=(1, 2, 4, 8, 16), has_levels=True)
URGENT, LOW = Waiting(1, priority=1), Waiting(1, priority=2)


@pytest.mark.parametrize(
    ("batching", "waiting", "requests"),
    [
        pytest.param(LEVELS, [URGENT, LOW], 1, id="an urgent request does not pay for a larger batch"),
        pytest.param(LEVELS, [URGENT] * 3 + [LOW] * 3, 4, id="others fill the room that is free"),
        pytest.param(LEVELS, [LOW] * 7, 7, id="one level alone"),
        pytest.param(LEVELS, [Waiting(3, priority=1), Waiting(2, priority=2)], 1, id="what does not fit"),
        pytest.param(Batching(has_levels=True), [URGENT, LOW, LOW], 3, id="no sizes that are better"),
        pytest.param(
            Batching((4, 8), 2.0, (4, 8), has_levels=True), [URGENT] * 2 + [LOW] * 9, 4, id="preferred sizes"
        ),
        pytest.param(
            Batching((4, 8), 2.0, (4, 8), has_levels=True), [URGENT, LOW], 0, id="a delay, with room for more"
        ),
        pytest.param(
            Batching((4, 8), 2.0, (4, 8), has_levels=True),
            [URGENT, Waiting(2, priority=2), Waiting(2, priority=2)],
            2,
            id="what does not fit is not waited for",
        ),
    ],
)
def test_levels_of_priority(batching: Batching, waiting: list[Waiting], requests: int) -> None:
    assert decide(batching, waiting, 1).requests == requests


@pytest.mark.parametrize(
    ("settings", "batching"),
    [
        (ModelSettings(), None),
        (ModelSettings(priority_levels=1, default_priority=1), None),
        (ModelSettings(preserve_ordering=True), None),
        (ModelSettings(priority_levels=2, default_priority=1, preserve_ordering=True), None),
        (ModelSettings(max_queue_delay_us=500), Batching(delay_seconds=0.0005, steps=(1, 8))),
        (ModelSettings(preferred_batch_sizes=(8, 4)), Batching(preferred=(4, 8), steps=(4, 8))),
        (
            ModelSettings(priority_levels=2, default_priority=1),
            Batching(steps=(1, 8), has_levels=True),
        ),
    ],
)
def test_what_settings_ask_for(settings: ModelSettings, batching: Batching | None) -> None:
    assert Batching.of(settings, (1, 8)) == batching


@given(
    batching=st.builds(
        Batching,
        st.lists(st.integers(1, MAX_ROWS), max_size=3, unique=True).map(lambda sizes: tuple(sorted(sizes))),
        st.sampled_from([0.0, 1.0, 3.0]),
        st.just((1, 2, 4, 8, MAX_ROWS)),
        st.booleans(),
    ),
    waiting=st.lists(
        st.builds(
            Waiting, st.integers(1, 6), st.integers(0, 4).map(float),
            st.sampled_from([5.5, 8.0, NO_DEADLINE]), st.sampled_from([1, 2]),
        ),
        min_size=1,
        max_size=8,
    ),
    can_grow=st.booleans(),
)  # fmt: skip
def test_a_batch_is_never_too_large_and_waiting_ends(
    batching: Batching, waiting: list[Waiting], can_grow: bool
) -> None:
    waiting.sort(key=lambda one: one.priority)
    fits = sum(total <= MAX_ROWS for total in accumulate(one.rows for one in waiting))
    waiting = waiting[:fits]
    now = 5.0
    decision = decide(batching, waiting, now, can_grow=can_grow)
    assert 0 <= decision.requests <= len(waiting)
    if not decision.requests:
        assert can_grow
        assert now < decision.again_at <= min(one.came for one in waiting) + batching.delay_seconds
        assert decision.again_at < min(one.deadline for one in waiting)
        assert sum(one.rows for one in waiting) < decision.enough_rows <= MAX_ROWS
        assert decide(batching, waiting, decision.again_at).requests == len(waiting)
    if batching.has_levels and waiting[0].priority == 1:
        urgent = sum(one.priority == 1 for one in waiting)
        assert not batching.preferred or not decision.requests or decision.requests >= 1
        assert batching.preferred or batching.delay_seconds or decision.requests >= urgent
