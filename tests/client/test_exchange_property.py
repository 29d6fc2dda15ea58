"""Whatever happens to a stream, every request has exactly one outcome."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from exchanges import ANSWER, exchange, outcomes
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from headrace.config import Retry
from headrace.errors import (
    Unavailable,
)
from headrace.exchange import Leg
from headrace.retry import Failure
from headrace.stream_requests import Encoded

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
        st.tuples(st.just("admit"), st.booleans()),
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
    sent: Counter[bytes] = Counter()
    bound: set[bytes] = set()
    for kind, *rest in [*steps, *_until_the_end()]:
        if kind == "end":
            stream.end_source()
        elif kind == "admit" and stream.has_room:
            key = str(admitted)
            stream.admit(key, Encoded(f"id of {key}", key.encode(), is_of_a_sequence=rest[0]), now)
            bound |= {key.encode()} if rest[0] else set()
            admitted += 1
        elif kind == "send":
            if stream.needs_leg:
                legs.append(stream.start_leg(f"server{len(legs) % 3}"))
            sent.update(message for leg in legs if (message := stream.take(leg, now)) is not None)
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
    assert all(sent[message] <= 1 for message in bound), "one of a sequence is never sent again"
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
