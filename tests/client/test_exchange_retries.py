"""What a stream sends again, where, and when: broken legs, failures, refusals."""

from __future__ import annotations

import math

import pytest
from exchanges import ANSWER, GONE, admit, exchange, outcomes, sent
from grpc import StatusCode

from headrace.config import Retry
from headrace.errors import (
    DeadlineExceeded,
    EngineFailed,
    HeadraceError,
    InvalidInput,
    ModelNotReady,
    Overloaded,
    RequestFailed,
    Unavailable,
)
from headrace.retry import Failure
from headrace.stream_requests import Encoded

NOT_READY = Failure(StatusCode.UNAVAILABLE, "loading", reason="MODEL_NOT_READY")
FULL = Failure(StatusCode.RESOURCE_EXHAUSTED, "full", 0.5)


def test_what_a_broken_leg_left_goes_elsewhere_at_once() -> None:
    stream = exchange()
    admit(stream, "a", "b")
    one = stream.start_leg("one")
    ids = sent(stream, one)
    stream.answer(one, ids["a"], ANSWER, 0.0, elsewhere=True)
    stream.end_leg(one, GONE, 0.0, elsewhere=True)
    assert stream.needs_leg
    assert stream.tried == ["one"]
    two = stream.start_leg("two")
    assert sent(stream, two) == {"b": ids["b"]}
    stream.answer(two, ids["b"], ANSWER, 0.0, elsewhere=True)
    assert outcomes(stream) == {"a": ANSWER, "b": ANSWER}


def test_alone_it_waits_before_it_is_sent_again() -> None:
    stream = exchange()
    admit(stream, "a")
    one = stream.start_leg("one")
    sent(stream, one)
    stream.end_leg(one, GONE, 0.0, elsewhere=False)
    assert not stream.needs_leg
    assert 0.05 <= stream.wake_at <= 0.1
    assert not stream.tick(0.04)
    assert stream.tick(0.1)
    assert stream.needs_leg


def test_three_legs_are_enough() -> None:
    stream = exchange()
    admit(stream, "a")
    for number in range(3):
        leg = stream.start_leg(f"server{number}")
        stream.tick(100.0 * number)
        assert sent(stream, leg, 100.0 * number)
        stream.end_leg(leg, GONE, 100.0 * number, elsewhere=True)
    error = outcomes(stream)["a"]
    assert isinstance(error, Unavailable)
    assert (error.endpoint, error.attempts, error.message) == ("server2", 3, "gone")


def test_a_broken_leg_costs_the_budget_once() -> None:
    stream = exchange(policy=Retry(attempts=9, budget_burst=2, budget_ratio=0))
    admit(stream, *"abcdefgh")
    for address in ("one", "two"):
        leg = stream.start_leg(address)
        assert len(sent(stream, leg)) == 8
        stream.end_leg(leg, GONE, 0.0, elsewhere=True)
        stream.tick(1000.0)
    leg = stream.start_leg("three")
    assert len(sent(stream, leg)) == 8
    stream.end_leg(leg, GONE, 0.0, elsewhere=True)
    assert all(isinstance(error, Unavailable) for error in outcomes(stream).values())
    assert stream.has_room


def test_an_idle_leg_that_breaks_costs_nothing_and_starts_nothing() -> None:
    stream = exchange(policy=Retry(budget_burst=1, budget_ratio=0))
    for address in ("one", "two", "three"):
        stream.end_leg(stream.start_leg(address), GONE, 0.0, elsewhere=True)
        assert not stream.needs_leg
    assert stream.wake_at == math.inf
    admit(stream, "a")
    leg = stream.start_leg("four")
    sent(stream, leg)
    stream.end_leg(leg, GONE, 0.0, elsewhere=True)
    assert stream.needs_leg, "the budget was left for it"


def test_a_broken_leg_costs_nothing_if_nothing_on_it_may_be_sent_again() -> None:
    policy = Retry(attempts=2, budget_burst=1, budget_ratio=0)
    stream = exchange(policy=policy)
    stream.admit("turn", Encoded("id of turn", b"turn", is_of_a_sequence=True), 0.0)
    leg = stream.start_leg("one")
    sent(stream, leg)
    stream.end_leg(leg, GONE, 0.0, elsewhere=True)
    assert isinstance(outcomes(stream)["turn"], Unavailable)
    admit(stream, "a")
    leg = stream.start_leg("two")
    sent(stream, leg)
    stream.end_leg(leg, GONE, 0.0, elsewhere=True)
    assert stream.needs_leg, "the budget was left for it"


def test_a_message_that_broke_a_leg_by_its_size_is_not_what_others_are_blamed_for() -> None:
    stream = exchange()
    stream.admit("turn", Encoded("id of turn", b"turn", is_of_a_sequence=True), 0.0)
    stream.admit("big", Encoded("id of big", bytes(999)), 0.0)
    leg = stream.start_leg("one")
    sent(stream, leg)
    too_large = Failure(StatusCode.INVALID_ARGUMENT, "larger than max", too_large=True)
    stream.end_leg(leg, too_large, 0.0, elsewhere=False)
    found = outcomes(stream)
    assert isinstance(found["big"], InvalidInput)
    assert isinstance(found["turn"], Unavailable)
    assert "another request was too large" in str(found["turn"])
    assert found["turn"].endpoint == "one"


def test_a_leg_that_a_message_broke_by_its_size_fails_that_one_alone() -> None:
    stream = exchange(policy=Retry(attempts=1))
    admit(stream, "a")
    stream.admit("big", Encoded("id of big", bytes(999)), 0.0)
    admit(stream, "b")
    one = stream.start_leg("one")
    sent(stream, one)
    too_large = Failure(StatusCode.INVALID_ARGUMENT, "too large", too_large=True)
    stream.end_leg(one, too_large, 0.0, elsewhere=False)
    assert list(outcomes(stream)) == ["big"]
    two = stream.start_leg("two")
    ids = sent(stream, two)
    assert list(ids) == ["a", "b"]
    for request_id in ids.values():
        stream.answer(two, request_id, ANSWER, 0.0, elsewhere=False)
    assert outcomes(stream) == {"a": ANSWER, "b": ANSWER}


@pytest.mark.parametrize(
    ("code", "elsewhere", "kind"),
    [
        (StatusCode.INVALID_ARGUMENT, True, InvalidInput),
        (StatusCode.DEADLINE_EXCEEDED, True, DeadlineExceeded),
        (StatusCode.UNKNOWN, True, RequestFailed),
        (StatusCode.INTERNAL, False, EngineFailed),
    ],
)
def test_a_failure_that_stays(code: StatusCode, elsewhere: bool, kind: type[HeadraceError]) -> None:
    stream = exchange()
    admit(stream, "a", "b")
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    stream.answer(leg, ids["a"], Failure(code, "no"), 0.0, elsewhere=elsewhere)
    assert leg.open, "the others are none the worse"
    found = outcomes(stream)
    assert list(found) == ["a"]
    assert type(found["a"]) is kind
    assert (found["a"].endpoint, found["a"].attempts) == ("one", 1)


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.INTERNAL])
def test_a_failure_that_another_server_may_mend_moves_the_stream(code: StatusCode) -> None:
    stream = exchange()
    admit(stream, "a", "b")
    one = stream.start_leg("one")
    ids = sent(stream, one)
    stream.answer(one, ids["a"], Failure(code, "no"), 0.0, elsewhere=True)
    assert stream.needs_leg
    assert not one.open
    two = stream.start_leg("two")
    assert list(sent(stream, two)) == ["a"]
    stream.answer(one, ids["b"], ANSWER, 0.0, elsewhere=True)
    stream.answer(two, ids["a"], ANSWER, 0.0, elsewhere=True)
    assert outcomes(stream) == {"a": ANSWER, "b": ANSWER}


@pytest.mark.parametrize("refusal", [NOT_READY, FULL])
def test_a_refused_request_goes_elsewhere_and_the_stream_stays(refusal: Failure) -> None:
    stream = exchange()
    admit(stream, "a", "b")
    one = stream.start_leg("one")
    ids = sent(stream, one)
    assert stream.answer(one, ids["a"], refusal, 0.0, elsewhere=True)
    assert stream.take(one, 0.0) is None, "it was refused here"
    assert stream.needs_leg
    assert stream.tried == ["one"]
    two = stream.start_leg("two")
    admit(stream, "c")
    assert list(sent(stream, two)) == ["a"]
    assert not stream.needs_leg
    ids |= sent(stream, one)
    for key in ("b", "c"):
        stream.answer(one, ids[key], ANSWER, 0.0, elsewhere=True)
    stream.answer(two, ids["a"], refusal, 0.0, elsewhere=False)
    stream.tick(1.0)
    assert list(sent(stream, one, 1.0)) == ["a"]
    assert one.open
    assert two.open


@pytest.mark.parametrize("refusal", [NOT_READY, FULL])
def test_the_server_that_answers_what_another_one_refused_gets_the_rest(refusal: Failure) -> None:
    stream = exchange()
    admit(stream, "a", "b")
    one = stream.start_leg("one")
    ids = sent(stream, one)
    stream.answer(one, ids["a"], refusal, 0.0, elsewhere=True)
    two = stream.start_leg("two")
    sent(stream, two)
    assert stream.answer(two, ids["a"], ANSWER, 0.0, elsewhere=True), "there is another leg to send on"
    admit(stream, "c", "d")
    assert stream.take(one, 0.0) is None
    ids |= sent(stream, two)
    stream.answer(one, ids["b"], ANSWER, 0.0, elsewhere=True)
    assert stream.answer(two, ids["c"], refusal, 0.0, elsewhere=True)
    assert not stream.needs_leg, "the first leg is there still"
    assert list(sent(stream, one)) == ["c"]
    stream.answer(one, ids["c"], ANSWER, 0.0, elsewhere=True)
    stream.answer(two, ids["d"], ANSWER, 0.0, elsewhere=True)
    assert outcomes(stream) == dict.fromkeys("abcd", ANSWER)
    stream.end_source()
    assert stream.take(one, 0.0) is None
    assert stream.take(two, 0.0) is None
    assert not one.open
    assert not two.open


def test_a_refused_request_is_asked_of_one_server_after_another_then_fails() -> None:
    stream = exchange()
    admit(stream, "a", "b")
    legs = [stream.start_leg("one")]
    ids = sent(stream, legs[0])
    for address in ("two", "three"):
        stream.answer(legs[-1], ids["a"], NOT_READY, 0.0, elsewhere=True)
        assert stream.needs_leg
        legs.append(stream.start_leg(address))
        assert list(sent(stream, legs[-1])) == ["a"]
    assert [leg.open for leg in legs] == [True, False, True], "two legs are enough"
    assert not stream.answer(legs[-1], ids["a"], NOT_READY, 0.0, elsewhere=True)
    error = outcomes(stream)["a"]
    assert isinstance(error, ModelNotReady)
    assert (error.endpoint, error.attempts) == ("three", 3)


def test_a_refused_request_returns_when_the_other_servers_have_gone() -> None:
    stream = exchange()
    admit(stream, "a")
    one = stream.start_leg("one")
    ids = sent(stream, one)
    stream.answer(one, ids["a"], NOT_READY, 0.0, elsewhere=True)
    stream.start_leg("one")
    assert not stream.needs_leg
    assert list(sent(stream, one)) == ["a"]


def test_an_overloaded_server_alone_is_asked_again_after_its_time_on_the_same_leg() -> None:
    stream = exchange()
    admit(stream, "a")
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    stream.answer(leg, ids["a"], FULL, 0.0, elsewhere=False)
    stream.end_source()
    assert stream.take(leg, 0.0) is None
    assert leg.open, "something comes yet"
    assert 0.25 <= stream.wake_at <= 0.75
    stream.tick(1.0)
    assert sent(stream, leg, 1.0) == ids
    stream.answer(leg, ids["a"], FULL, 1.0, elsewhere=False)
    stream.tick(2.0)
    assert stream.needs_leg, "the first leg was closed when all had been sent"
    leg = stream.start_leg("one")
    sent(stream, leg, 2.0)
    stream.answer(leg, ids["a"], FULL, 2.0, elsewhere=False)
    error = outcomes(stream)["a"]
    assert isinstance(error, Overloaded)
    assert error.retry_after_seconds == 0.5


def test_no_retry_beyond_the_requests_time() -> None:
    stream = exchange(timeout_seconds=1.0)
    admit(stream, "a")
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    full = Failure(StatusCode.RESOURCE_EXHAUSTED, "full", 5.0)
    stream.answer(leg, ids["a"], full, 0.0, elsewhere=False)
    assert isinstance(outcomes(stream)["a"], Overloaded)
