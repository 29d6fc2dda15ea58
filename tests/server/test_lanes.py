from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_server.core.lanes import Entry, Lanes, is_gone
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import Shapes, State

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()
SHAPES: list[Shapes] = [None, ((1, 2),), ((1, 3),)]


def entry(arrival: int, *, rank: int = 0, deadline: float = 0.0, shapes: Shapes = None) -> Entry:
    return (rank, deadline, arrival, work_of(MODEL, SINK, f"{arrival}", shapes=shapes))


def emptied(lanes: Lanes) -> list[int]:
    """Take everything, one by one; return the arrivals."""
    arrivals = []
    while (lane := lanes.first()) is not None:
        arrivals.append(lane.pop(0)[2])
        lanes.settle(lane)
    assert len(lanes) == 0
    return arrivals


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 5.0]), st.sampled_from(SHAPES))),
    st.sets(st.integers(0, 50)),
)
def test_the_first_of_all_lanes_comes_first_and_what_is_swept_never(
    told: list[tuple[int, float, Shapes]], cancelled: set[int]
) -> None:
    lanes = Lanes()
    entries = [
        entry(number, rank=rank, deadline=deadline, shapes=shapes)
        for number, (rank, deadline, shapes) in enumerate(told)
    ]
    for one in entries:
        of_its_shape = [other for other in lanes if other[3].shapes == one[3].shapes]
        assert lanes.add(one) == all(one < other for other in of_its_shape)
    for number in cancelled & set(range(len(entries))):
        entries[number][3].state = State.ENDED
    lanes.sweep()
    assert emptied(lanes) == [one[2] for one in sorted(entries) if one[2] not in cancelled]


def test_work_that_became_overdue_is_gone_from_where_it_was() -> None:
    in_time = entry(0)
    overdue = (1, *in_time[1:])
    assert (is_gone(in_time), is_gone(overdue)) == (False, False)
    in_time[3].is_overdue = True
    assert (is_gone(in_time), is_gone(overdue)) == (True, False)
    in_time[3].state = State.TAKEN
    assert is_gone(overdue)


def test_invariant_4_ever_more_urgent_work_leaves_nothing_behind() -> None:
    lanes = Lanes()
    for number in range(10_000):
        lanes.add(entry(number, deadline=-float(number)))
    assert len(lanes._heads) < 100, "each of them was the first of its lane for a moment"
    assert emptied(lanes) == list(range(9_999, -1, -1))
