from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

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
from headrace.exchange import Exchange, Leg
from headrace.requests import RequestEncoder
from headrace.retry import Failure, Retries
from headrace.stream_requests import Encoded, Encoder
from headrace_proto.v1.inference_pb2 import ModelInferRequest

GONE = Failure(StatusCode.UNAVAILABLE, "gone")
ANSWER = {"y": np.ones(1)}


def exchange(
    *, max_in_flight: int = 8, timeout_seconds: float | None = None, policy: Retry | None = None
) -> Exchange[str]:
    retries = Retries(policy or Retry(attempts=3, backoff_seconds=0.1), Random(1))
    return Exchange(retries, max_in_flight=max_in_flight, timeout_seconds=timeout_seconds)


def request(key: str) -> Encoded:
    return Encoded(f"id of {key}", key.encode())


def admit(exchange: Exchange[str], *keys: str, now: float = 0.0) -> None:
    for key in keys:
        exchange.admit(key, request(key), now)


def sent(exchange: Exchange[str], leg: Leg[str], now: float = 0.0) -> dict[str, str]:
    """Send all there is; return the ids by the callers' keys."""
    ids = {}
    while (message := exchange.take(leg, now)) is not None:
        ids[message.decode()] = f"id of {message.decode()}"
    return ids


def outcomes(exchange: Exchange[str]) -> dict[str, Any]:
    found = dict[str, Any]()
    while (outcome := exchange.next_outcome()) is not None:
        assert outcome[0] not in found
        found[outcome[0]] = outcome[1]
    return found


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


NOT_READY = Failure(StatusCode.UNAVAILABLE, "loading", reason="MODEL_NOT_READY")
FULL = Failure(StatusCode.RESOURCE_EXHAUSTED, "full", 0.5)


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


def test_no_retry_beyond_the_requests_time() -> None:
    stream = exchange(timeout_seconds=1.0)
    admit(stream, "a")
    leg = stream.start_leg("one")
    ids = sent(stream, leg)
    full = Failure(StatusCode.RESOURCE_EXHAUSTED, "full", 5.0)
    stream.answer(leg, ids["a"], full, 0.0, elsewhere=False)
    assert isinstance(outcomes(stream)["a"], Overloaded)


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


CODES = st.sampled_from(
    [
        StatusCode.UNAVAILABLE,
        StatusCode.CANCELLED,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.INVALID_ARGUMENT,
    ]
)
REASONS = st.sampled_from(["", "MODEL_NOT_READY"])
STEPS = st.lists(
    st.one_of(
        st.just(("admit",)),
        st.just(("send",)),
        st.tuples(st.just("answer"), st.integers(0, 20)),
        st.tuples(st.just("fail"), st.integers(0, 20), CODES, st.booleans(), REASONS),
        st.tuples(st.just("break"), st.integers(0, 20), CODES, st.booleans()),
        st.tuples(st.just("wait"), st.floats(0.0, 0.5)),
        st.tuples(st.just("oversize"), st.integers(0, 20)),
        st.just(("retire",)),
        st.just(("nobody",)),
    ),
    max_size=80,
)


@given(STEPS, st.one_of(st.none(), st.floats(0.1, 2.0)), st.integers(0, 5))
def test_every_request_has_exactly_one_outcome(
    steps: list[tuple[Any, ...]], timeout_seconds: float | None, burst: int
) -> None:
    policy = Retry(attempts=3, backoff_seconds=0.05, budget_burst=burst)
    stream = exchange(max_in_flight=6, timeout_seconds=timeout_seconds, policy=policy)
    legs: list[Leg[str]] = []
    admitted = 0
    now = 0.0
    found: Counter[str] = Counter()
    for kind, *rest in [*steps, *_until_the_end()]:
        if kind == "end":
            stream.end_source()
        elif kind == "admit" and stream.has_room:
            admit(stream, str(admitted), now=now)
            admitted += 1
        elif kind == "send":
            if stream.needs_leg:
                legs.append(stream.start_leg(f"server{len(legs) % 3}"))
            for leg in legs:
                stream.take(leg, now)
        elif kind == "wait":
            now += rest[0]
        elif kind == "retire" and legs:
            stream.retire(legs[-1])
        elif kind == "oversize" and legs:
            failure = Failure(StatusCode.INVALID_ARGUMENT, "too large", too_large=True)
            stream.end_leg(legs[rest[0] % len(legs)], failure, now, elsewhere=True)
        elif kind == "nobody":
            stream.fail_waiting(Unavailable("nobody"))
        elif kind == "break all":
            for leg in legs:
                stream.end_leg(leg, Failure(StatusCode.INVALID_ARGUMENT, "over"), now, elsewhere=False)
        elif kind in ("answer", "fail", "break") and legs:
            leg = legs[rest[0] % len(legs)]
            request_id = next(iter(leg.unanswered), "none")
            if kind == "answer":
                stream.answer(leg, request_id, ANSWER, now, elsewhere=True)
            elif kind == "fail":
                failure = Failure(rest[1], "failed", reason=rest[3])
                stream.answer(leg, request_id, failure, now, elsewhere=rest[2])
            else:
                stream.end_leg(leg, Failure(rest[1], "broken"), now, elsewhere=rest[2])
        stream.tick(now)
        if kind != "admit":
            found.update(outcomes(stream).keys())
    assert found == Counter(str(number) for number in range(admitted))
    assert stream.finished
    assert not any(leg.unanswered for leg in legs)
    assert stream.wake_at == math.inf


def _until_the_end() -> Iterator[tuple[Any, ...]]:
    """Send what is left, break every leg for good, and wait for every delay."""
    yield ("end",)
    for _ in range(3):
        yield from [("send",)] * 8
        yield ("break all",)
        yield ("wait", 2.0)
