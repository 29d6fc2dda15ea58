"""Whose batches are: the engine's thread's, or whoever's gives the engine up."""

from __future__ import annotations

import pytest
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_engines.errors import DeviceError
from headrace_server.core.flights import Batch, Flights
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import Work

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()


def works(*names: str) -> list[Work]:
    return [work_of(MODEL, SINK, name) for name in names]


def names(given: list[Work]) -> str:
    return "".join(work.id for work in given)


def test_batches_land_in_the_order_of_their_launch() -> None:
    flights = Flights()
    first, second = flights.begin(works("a")), flights.begin(works("b", "c"))
    assert (len(flights), flights.first(), second.rows) == (2, first, 2)
    with flights.claimed(first):
        assert flights.first() is second
    assert flights.in_hand() == (2, second.begun_ns)


def test_what_is_grounded_or_separated_goes_off_again_in_its_order_before_the_rest() -> None:
    flights = Flights()
    flights.begin(works("a", "b"))
    flights.begin(works("c"))
    flights.ground()
    assert (len(flights), flights.has_again, flights.in_hand()) == (0, True, (3, 0))
    flights.separate(again := flights.begin_again(), [[work] for work in again.works])
    assert [names(batch.works) for batch in flights.claim_again()] == ["a", "b", "c"]
    assert not flights.has_again
    flights.put_again([Batch(works("d"))])
    assert names(flights.begin_again().works) == "d"


def test_what_was_given_up_is_nobody_else_s() -> None:
    flights = Flights()
    flight = flights.begin(works("a"))
    flights.begin(works("b"))
    flights.put_again([Batch(works("c"))])
    assert names(flights.give_up()) == "abc"
    assert flights.give_up() == []
    for step in (
        flights.first,
        flights.ground,
        flights.begin_again,
        flights.claim_again,
        lambda: flights.separate(flight, []),
        lambda: flights.claimed(flight).__enter__(),
    ):
        with pytest.raises(DeviceError, match="given up"):
            step()
    assert flights.give_up() == []


def test_what_comes_after_all_was_given_up_is_there_to_be_given_up_again() -> None:
    flights = Flights()
    flights.give_up()
    with pytest.raises(DeviceError):
        flights.begin(works("a"))
    with pytest.raises(DeviceError):
        flights.put_again([Batch(works("b"))])
    assert names(flights.give_up()) == "ab"


def test_answering_that_ends_in_the_middle_leaves_the_requests_to_be_given_up() -> None:
    flights = Flights()
    flight = flights.begin(works("a"))
    with pytest.raises(SystemExit), flights.claimed(flight):
        raise SystemExit
    assert names(flights.give_up()) == "a"
