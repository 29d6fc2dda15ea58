from __future__ import annotations

import pytest
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_engines.steps import SequenceTurn
from headrace_server.core.model import Limits, Model
from headrace_server.core.queue import NEVER, QueueFull, Taken
from headrace_server.core.request import NO_DEADLINE, Shapes, State, Work
from headrace_server.core.sequence_controls import SequenceControls
from headrace_server.core.sequences import SequenceQueue
from headrace_server.core.settings import ControlInput, SequenceControl, Sequences
from headrace_server.errors import InvalidInput

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()
IDLE_SECONDS = 1.0


def queue(
    *,
    instances: int = 1,
    slots: int = 2,
    max_requests: int = 100,
    max_bytes: int = 10_000,
    max_queue_delay_us: int = 0,
    minimum_slot_utilization: float = 0.0,
    controls: tuple[ControlInput, ...] = (),
) -> SequenceQueue:
    sequences = Sequences(int(IDLE_SECONDS * 1e6), max_queue_delay_us, minimum_slot_utilization, controls)
    return SequenceQueue(
        "m",
        sequences,
        SequenceControls(sequences, has_batch_axis=True),
        instances=instances,
        slots=slots,
        max_requests=max_requests,
        max_bytes=max_bytes,
    )


def work(
    name: str,
    *,
    at: float = 0.0,
    deadline: float = NO_DEADLINE,
    shapes: Shapes = None,
    rows: int = 1,
    size_bytes: int = 8,
) -> Work:
    """Return a request whose name tells its place: "(a" begins sequence a, "a" goes on, "a)" ends it."""
    turn = SequenceTurn(name.strip("()"), name.startswith("("), name.endswith(")"))
    return work_of(
        MODEL,
        SINK,
        name,
        rows=rows,
        size_bytes=size_bytes,
        shapes=shapes,
        deadline=deadline,
        queued_ns=int(at * 1e9),
        sequence=turn,
    )


def pushed(waiting: SequenceQueue, names: str, *, at: float = 0.0) -> list[Work]:
    works = [work(name, at=at) for name in names.split()]
    for one in works:
        waiting.push(one)
    return works


def names(works: object) -> str:
    assert isinstance(works, list)
    return " ".join(one.id for one in works)


def executed(waiting: SequenceQueue, *, at: float = 0.0, instance: int = 0, hurry: bool = False) -> str:
    """Take a batch and finish it; return the names of its requests."""
    taken = waiting.take(8, at, instance=instance, hurry=hurry)
    waiting.finished(taken.batch, at)
    return names(taken.batch)


def test_a_batch_has_one_request_of_each_sequence_in_the_order_of_the_slots() -> None:
    waiting = queue(slots=3)
    pushed(waiting, "(a a (b b) (c a)")
    assert [executed(waiting) for _ in range(4)] == ["(a (b (c", "a b)", "a)", ""]


def test_a_sequence_keeps_its_slot_from_start_to_end() -> None:
    waiting = queue(slots=2)
    pushed(waiting, "(a (b a b) a)")
    slots: dict[str, set[int]] = {"a": set(), "b": set()}
    for _ in range(3):
        batch = waiting.take(8, 0).batch
        waiting.finished(batch, 0)
        for one in batch:
            assert one.sequence is not None
            slots[str(one.sequence.id)].add(one.sequence.slot)
    assert slots == {"a": {0}, "b": {1}}


def test_what_is_executed_keeps_its_sequence_from_the_next_batch() -> None:
    waiting = queue()
    pushed(waiting, "(a a (b")
    running = waiting.take(8, 0).batch
    assert names(running) == "(a (b"
    pushed(waiting, "b")
    assert waiting.take(8, 0).batch == []
    waiting.finished(running, 0)
    assert executed(waiting) == "a b"


def test_sequences_beyond_the_slots_wait_in_the_order_in_which_they_came() -> None:
    waiting = queue(slots=1)
    pushed(waiting, "(a (b b) (c) a)")
    assert [executed(waiting) for _ in range(5)] == ["(a", "a)", "(b", "b)", "(c)"]


def test_sequences_are_spread_over_the_instances_and_stay_there() -> None:
    waiting = queue(instances=2, slots=2)
    pushed(waiting, "(a (b (c a b c")
    assert [executed(waiting, instance=1), executed(waiting, instance=1)] == ["(b", "b"]
    assert [executed(waiting, instance=0), executed(waiting, instance=0)] == ["(a (c", "a c"]


@pytest.mark.parametrize("before", ["", "(a)", "(a a)"], ids=["never begun", "ended at once", "ended"])
def test_a_sequence_that_does_not_run_must_be_begun(before: str) -> None:
    waiting = queue()
    pushed(waiting, before)
    for late in (False, True):
        with pytest.raises(InvalidInput, match="sequence a to model 'm' must specify the START flag"):
            waiting.push(work("a"))
        while not late and executed(waiting):
            pass
    assert waiting.requests == 0


def test_a_first_request_begins_a_running_sequence_anew_after_what_came_before() -> None:
    waiting = queue()
    pushed(waiting, "(a a (a a)")
    assert [executed(waiting) for _ in range(5)] == ["(a", "a", "(a", "a)", ""]


def test_a_sequence_that_ended_can_be_begun_again_before_its_end_is_executed() -> None:
    waiting = queue(slots=1)
    pushed(waiting, "(a a) (b) (a)")
    assert [executed(waiting) for _ in range(4)] == ["(a", "a)", "(b)", "(a)"]


def test_only_equal_shapes_share_a_batch_beginning_with_what_waited_longest() -> None:
    waiting = queue(slots=3)
    for name, at, shapes in (("(a", 2, ((1, 2),)), ("(b", 1, ((1, 3),)), ("(c", 3, ((1, 3),))):
        waiting.push(work(name, at=at, shapes=shapes))
    assert [executed(waiting, at=3), executed(waiting, at=3)] == ["(b (c", "(a"]


def test_an_idle_sequence_gives_its_slot_to_one_that_waits() -> None:
    waiting = queue(slots=1)
    pushed(waiting, "(a", at=10)
    executed(waiting, at=11)
    pushed(waiting, "(b", at=11.5)
    assert waiting.take(8, 11.5) == Taken([], [], 12.0, [])
    assert executed(waiting, at=12) == "(b"
    with pytest.raises(InvalidInput, match="START"):
        waiting.push(work("a", at=12))


@pytest.mark.parametrize(("at", "goes_on"), [(11.9, True), (12.0, False)])
def test_an_idle_sequence_has_ended_though_nobody_waits(at: float, goes_on: bool) -> None:
    waiting = queue()
    pushed(waiting, "(a", at=10)
    executed(waiting, at=11)
    if goes_on:
        pushed(waiting, "a", at=at)
    else:
        with pytest.raises(InvalidInput, match="START"):
            pushed(waiting, "a", at=at)


def test_a_sequence_is_not_idle_while_it_is_executed() -> None:
    waiting = queue(slots=1)
    pushed(waiting, "(a", at=10)
    running = waiting.take(8, 10).batch
    pushed(waiting, "(b", at=99)
    assert waiting.take(8, 99).batch == []
    pushed(waiting, "a", at=99)
    waiting.finished(running, 99)
    assert executed(waiting, at=99) == "a"


def test_when_nothing_more_comes_all_that_waits_is_executed() -> None:
    waiting = queue(slots=1, max_queue_delay_us=10**9, minimum_slot_utilization=1.0)
    pushed(waiting, "(a a (b (c")
    assert [executed(waiting, hurry=True) for _ in range(5)] == ["(a", "a", "(b", "(c", ""]


@pytest.mark.parametrize(
    ("sequences", "at", "batch", "again_at"),
    [
        pytest.param("(a", 10.0, "", 10.5, id="too few"),
        pytest.param("(a", 10.5, "(a", NEVER, id="waited long enough"),
        pytest.param("(a (b", 10.0, "(a (b", NEVER, id="enough of them"),
        pytest.param("(a a", 10.0, "", 10.5, id="requests of one sequence do not count twice"),
    ],
)
def test_a_batch_waits_for_enough_slots(sequences: str, at: float, batch: str, again_at: float) -> None:
    waiting = queue(slots=4, max_queue_delay_us=500_000, minimum_slot_utilization=0.5)
    pushed(waiting, sequences, at=10)
    taken = waiting.take(8, at)
    assert (names(taken.batch), taken.again_at) == (batch, again_at)


def test_requests_of_several_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a batch of 2 rows came for sequence a, model 'm' takes one"):
        queue().push(work("(a", rows=2))


def test_a_full_queue_takes_no_more_and_keeps_what_it_has() -> None:
    waiting = queue(max_requests=2, max_bytes=30)
    pushed(waiting, "(a (b")
    with pytest.raises(QueueFull, match="2 requests wait, which is the limit"):
        waiting.push(work("(c"))
    executed(waiting)
    waiting.push(work("a", size_bytes=25))
    with pytest.raises(QueueFull, match="25 bytes wait, the limit is 30"):
        waiting.push(work("b", size_bytes=6))
    assert executed(waiting) == "a"


def lost(waiting: SequenceQueue, works: list[Work], place: int, how: str) -> tuple[list[Work], list[Work]]:
    """Cancel or miss the work at this place; return its orphans, and a batch that was taken on the way."""
    if how == "cancelled":
        return list(waiting.discard(works[place])), []
    works[place].deadline = 5.0
    taken = waiting.take(8, 5.0)
    waiting.finished(taken.batch, 5.0)
    assert taken.missed == [works[place]]
    return list(taken.orphans), taken.batch


@pytest.mark.parametrize("how", ["cancelled", "missed"])
@pytest.mark.parametrize(
    ("done", "waits", "orphans", "rest"),
    [
        pytest.param("(a", "a a a)", "", ["a", "a)"], id="in the middle"),
        pytest.param("(a", "a) (a)", "", ["(a)"], id="the end, and another begins"),
        pytest.param("", "(a a a)", "a a)", [], id="the start"),
        pytest.param("", "(a a (a a)", "a", ["(a", "a)"], id="the start, and another begins"),
        pytest.param("(a", "(a a)", "a)", [], id="a new start"),
    ],
)
def test_a_request_that_is_lost_is_left_out(
    how: str, done: str, waits: str, orphans: str, rest: list[str]
) -> None:
    waiting = queue(slots=1)
    pushed(waiting, done)
    executed(waiting)
    works = pushed(waiting, waits)
    lone, batch = lost(waiting, works, 0, how)
    assert names(lone) == orphans
    assert all(one.state is State.TAKEN for one in lone)
    came = [names(batch)] if batch else []
    while name := executed(waiting):
        came.append(name)
    assert came == rest
    assert waiting.requests == 0


def test_a_lost_end_leaves_the_sequence_running() -> None:
    waiting = queue()
    pushed(waiting, "(a")
    executed(waiting)
    (end,) = pushed(waiting, "a)")
    waiting.discard(end)
    pushed(waiting, "a)")
    assert executed(waiting) == "a)"


@pytest.mark.parametrize("running", [False, True])
def test_a_lost_new_start_ends_the_sequence_before_it(running: bool) -> None:
    waiting = queue(slots=1)
    works = pushed(waiting, "(a (a a (b")
    batch = waiting.take(8, 0).batch if running else []
    assert names(waiting.discard(works[1])) == "a"
    with pytest.raises(InvalidInput, match="START"):
        waiting.push(work("a"))
    batch = batch or waiting.take(8, 0).batch
    assert batch[0].sequence == SequenceTurn("a", start=True, end=True, slot=0)
    waiting.finished(batch, 0)
    assert executed(waiting) == "(b"


def test_a_sequence_that_never_began_gives_its_slot_to_one_that_waits() -> None:
    waiting = queue(slots=1)
    works = pushed(waiting, "(a (b (c")
    waiting.discard(works[1])
    waiting.discard(works[0])
    assert executed(waiting) == "(c"


def test_a_late_sequence_gives_its_slot_to_the_next_in_the_same_batch() -> None:
    waiting = queue(slots=1)
    works = pushed(waiting, "(a (b (c")
    works[0].deadline = works[1].deadline = 1.0
    taken = waiting.take(8, 1.0)
    assert (names(taken.missed), names(taken.batch)) == ("(a (b", "(c")


def test_clearing_returns_what_waits_and_not_what_is_executed() -> None:
    waiting = queue(slots=1)
    pushed(waiting, "(a a (b b (c")
    running = waiting.take(8, 0).batch
    cleared = waiting.clear()
    assert names(cleared) == "a (b b (c"
    assert all(one.state is State.TAKEN for one in cleared)
    assert (waiting.requests, waiting.rows, waiting.size_bytes) == (0, 0, 0)
    waiting.finished(running, 0)
    pushed(waiting, "a")
    assert executed(waiting) == "a"


def test_an_id_that_the_model_cannot_be_told_is_refused() -> None:
    told = (ControlInput("ID", SequenceControl.CORRID, "INT32"),)
    with pytest.raises(InvalidInput, match="'sequence_id': 'a' came, a whole number expected"):
        queue(controls=told).push(work("(a"))


def test_work_without_a_sequence_is_refused() -> None:
    one = work("(a")
    one.sequence = None
    with pytest.raises(InvalidInput, match="'sequence_id' expected"):
        queue().push(one)
