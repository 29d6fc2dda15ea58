from __future__ import annotations

from random import Random

import numpy as np
import pytest
from exchanges import ANSWER, admit, exchange, outcomes, request, sent

from headrace.config import Retry
from headrace.errors import (
    DeadlineExceeded,
    InvalidInput,
    Unavailable,
)
from headrace.exchange import Exchange
from headrace.requests import RequestEncoder
from headrace.retry import Retries
from headrace.stream_requests import Encoder
from headrace_proto.v1.inference_pb2 import ModelInferRequest


def test_answers_come_in_the_order_of_their_arrival_under_the_callers_keys() -> None:
    stream = exchange()
    admit(stream, "a", "b", "c")
    assert stream.needs_leg
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    assert len(set(ids.values())) == 3
    for key in ("c", "a", "b"):
        stream.answer(leg, ids[key], {"y": np.array([ord(key)])}, 0.0, elsewhere=True)
    found = outcomes(stream)
    assert list(found) == ["c", "a", "b"]
    assert found["a"]["y"] == ord("a")


def test_keys_need_not_be_different_or_hashable() -> None:
    stream: Exchange[list[int]] = Exchange(Retries(Retry(), Random(1)), max_in_flight=2, timeout_seconds=None)
    stream.admit([1], request("first"), 0.0)
    stream.admit([1], request("second"), 0.0)
    leg = stream.start_leg("one")
    while (message := stream.take(leg, 0.0)) is not None:
        stream.answer(leg, f"id of {message.decode()}", ANSWER, 0.0, elsewhere=False)
    assert [stream.next_outcome() for _ in range(3)] == [([1], ANSWER), ([1], ANSWER), None]


def test_room_is_what_was_taken_and_not_passed_on() -> None:
    stream = exchange(max_in_flight=2)
    admit(stream, "a")
    assert stream.has_room
    stream.refuse("b", InvalidInput("no"))
    assert not stream.has_room
    leg = stream.start_leg("one")
    stream.answer(leg, sent(stream, leg)["a"], ANSWER, 0.0, elsewhere=True)
    assert not stream.has_room, "answered, and still held for the caller"
    stream.next_outcome()
    assert stream.has_room


@pytest.mark.parametrize(("max_in_flight", "held"), [(1, 0), (2, 1), (3, 2), (4, 3), (8, 6), (64, 48)])
def test_a_feeder_is_woken_for_a_quarter_of_the_room(max_in_flight: int, held: int) -> None:
    stream = exchange(max_in_flight=max_in_flight)
    admit(stream, *map(str, range(held)))
    assert stream.is_thirsty
    admit(stream, "one more")
    assert not stream.is_thirsty


@pytest.mark.parametrize(
    ("max_in_flight", "sent_before", "answered", "expected"),
    [(1, 1, 1, True), (64, 64, 1, False), (64, 64, 7, False), (64, 64, 8, True), (64, 32, 1, True)],
)
def test_a_caller_is_woken_for_an_eighth_of_the_room_or_when_little_is_on_the_way(
    max_in_flight: int, sent_before: int, answered: int, expected: bool
) -> None:
    stream = exchange(max_in_flight=max_in_flight)
    admit(stream, *map(str, range(sent_before)))
    leg = stream.start_leg("one")
    for request_id in list(sent(stream, leg).values())[:answered]:
        stream.answer(leg, request_id, ANSWER, 0.0, elsewhere=False)
    assert stream.is_newsworthy is expected


@pytest.mark.parametrize("max_in_flight", [0, -1])
def test_max_in_flight_is_checked(max_in_flight: int) -> None:
    with pytest.raises(ValueError, match="max_in_flight"):
        exchange(max_in_flight=max_in_flight)


def test_a_leg_closes_when_nothing_can_come() -> None:
    stream = exchange()
    admit(stream, "a")
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    assert leg.open
    stream.end_source()
    assert stream.take(leg, 0.0) is None
    assert not leg.open
    assert not stream.finished
    stream.answer(leg, ids["a"], ANSWER, 0.0, elsewhere=True)
    assert not stream.finished, "the outcome was not passed on"
    outcomes(stream)
    assert stream.finished


def test_an_answer_nobody_waits_for_changes_nothing() -> None:
    stream = exchange()
    admit(stream, "a")
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    for request_id in ("", "99", ids["a"], ids["a"]):
        stream.answer(leg, request_id, ANSWER, 0.0, elsewhere=True)
    assert outcomes(stream) == {"a": ANSWER}


def test_each_request_has_its_own_time() -> None:
    stream = exchange(timeout_seconds=1.0)
    encoder = Encoder(RequestEncoder(), "m", timeout_seconds=1.0)
    for key, now in (("old", 0.0), ("new", 0.5), ("newest", 0.745)):
        stream.admit(key, encoder.encode({"x": np.arange(3)}), now)
    leg = stream.start_leg("one")
    requests = [ModelInferRequest.FromString(stream.take(leg, 0.75) or b"") for _ in range(3)]
    told_us = [request.parameters["timeout"].int64_param for request in requests]
    assert told_us == [250_000, 750_000, 1_000_000], "to a hundredth of the whole time"
    assert {len(request.parameters) for request in requests} == {2}
    assert {bytes(request.raw_input_contents[0]) for request in requests} == {np.arange(3).tobytes()}
    assert stream.wake_at == 1.0
    stream.tick(1.0)
    found = outcomes(stream)
    assert list(found) == ["old"]
    assert isinstance(found["old"], DeadlineExceeded)
    assert str(found["old"]) == "no answer within 1 s [DEADLINE_EXCEEDED from one]"
    stream.answer(leg, "0", ANSWER, 1.1, elsewhere=True)
    assert outcomes(stream) == {}, "too late"
    assert stream.wake_at == 1.5


def test_a_request_may_be_too_late_before_it_is_sent() -> None:
    stream = exchange(timeout_seconds=1.0)
    admit(stream, "waiting")
    stream.tick(1.0)
    assert not stream.needs_leg
    assert stream.take(stream.start_leg("one"), 1.0) is None
    error = outcomes(stream)["waiting"]
    assert (error.endpoint, error.attempts) == ("", 0)


def test_a_server_that_leaves_gets_nothing_more() -> None:
    stream = exchange()
    admit(stream, "a")
    one = stream.start_leg("one")
    ids = sent(stream, one)
    stream.retire(one)
    admit(stream, "b")
    assert stream.take(one, 0.0) is None
    assert stream.needs_leg
    two = stream.start_leg("two")
    assert list(sent(stream, two)) == ["b"]
    stream.answer(one, ids["a"], ANSWER, 0.0, elsewhere=True)
    assert outcomes(stream) == {"a": ANSWER}


def test_without_a_server_only_what_waits_fails() -> None:
    stream = exchange()
    admit(stream, "sent")
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    admit(stream, "waiting")
    stream.fail_waiting(Unavailable("nobody"))
    found = outcomes(stream)
    assert list(found) == ["waiting"]
    assert str(found["waiting"]) == "nobody"
    stream.answer(leg, ids["sent"], ANSWER, 0.0, elsewhere=True)
    assert outcomes(stream) == {"sent": ANSWER}


def test_the_callers_own_error_is_kept_for_the_end() -> None:
    stream = exchange()
    admit(stream, "a")
    mistake = KeyError("mistake")
    stream.end_source(mistake)
    assert not stream.finished
    leg = stream.start_leg("one")
    stream.answer(leg, sent(stream, leg)["a"], ANSWER, 0.0, elsewhere=True)
    assert outcomes(stream) == {"a": ANSWER}
    assert stream.finished
    assert stream.source_error is mistake


def test_a_request_that_comes_while_its_owner_waits_is_not_late() -> None:
    stream = exchange(timeout_seconds=2.0)
    assert stream.next_look(5.0) == 7.0
    admit(stream, "a", now=6.0)
    admit(stream, "b", now=6.5)
    assert stream.next_look(7.0) == 8.0
    assert exchange().next_look(5.0) == float("inf")
