from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engines import Answers, rows_spec
from works import work_of

from headrace_server.core.model import Limits, Model
from headrace_server.errors import Overloaded
from headrace_server.transport.holdings import Call, Holdings, foreseen_bytes, unforeseen_bytes


def test_bytes_count_until_their_call_is_released() -> None:
    holdings, call = Holdings(100), Call()
    holdings.admit(call, 60)
    holdings.add(call, 30)
    with pytest.raises(Overloaded, match="90 bytes are in flight, the limit is 100") as refused:
        holdings.admit(Call(), 11)
    assert refused.value.retry_after_seconds > 0
    holdings.release(call)
    holdings.admit(Call(), 11)
    assert holdings.size_bytes == 11


def test_a_request_larger_than_the_limit_may_be_alone() -> None:
    holdings = Holdings(100)
    holdings.admit(Call(), 500)
    with pytest.raises(Overloaded):
        holdings.admit(Call(), 1)


def test_what_a_request_turns_out_to_take_is_refused_unless_it_is_alone() -> None:
    holdings, call = Holdings(100), Call()
    holdings.admit(call, 80)
    holdings.admit(call, 500, own_bytes=80)
    assert holdings.size_bytes == 580
    with pytest.raises(Overloaded):
        holdings.admit(call, 1, own_bytes=500)
    assert call.size_bytes == 580


def test_what_an_answer_takes_counts_before_its_call_hears_of_it_and_not_once_that_is_over() -> None:
    holdings, call = Holdings(100), Call()
    holdings.admit(call, 10)
    holdings.admit(call, 80, own_bytes=10)
    for other, own_bytes in ((Call(), 0), (call, 10)):
        with pytest.raises(Overloaded, match="90 bytes are in flight, the limit is 100"):
            holdings.admit(other, 11, own_bytes)
    assert (holdings.size_bytes, call.size_bytes) == (90, 90)
    holdings.release(call)
    holdings.admit(call, 500)  # alone, and too late
    assert holdings.size_bytes == 0


@pytest.mark.parametrize(("size_bytes", "more"), [(0, 0), (4096 + 16, 0), (4096 + 17, 1), (1 << 20, 1044464)])
def test_answers_count_beyond_what_was_foreseen_of_their_rows(size_bytes: int, more: int) -> None:
    work = work_of(Model("m", "1", rows_spec(), "scripted", Limits()), Answers(), rows=2)
    assert foreseen_bytes(work) == 16
    assert unforeseen_bytes(work, bytes(size_bytes)) == more


def test_a_stream_has_room_for_a_sixteenth() -> None:
    holdings, stream = Holdings(1600), Call()
    holdings.admit(stream, 100)
    assert holdings.has_room(stream)
    holdings.add(stream, 1)
    assert not holdings.has_room(stream)
    assert holdings.has_room(Call())


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50))))
def test_nothing_is_held_when_every_call_has_ended(steps: list[tuple[int, int]]) -> None:
    holdings = Holdings(100)
    calls = [Call() for _ in range(5)]
    for which, size_bytes in steps:
        try:
            holdings.admit(calls[which], size_bytes)
        except Overloaded:
            holdings.release(calls[which])
        assert holdings.size_bytes == sum(call.size_bytes for call in calls)
    for call in calls:
        holdings.release(call)
    assert holdings.size_bytes == 0
