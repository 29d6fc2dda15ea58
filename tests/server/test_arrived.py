"""Calls that wait for their clients: each has its time for its message, and again for its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVarTuple

import grpc
import pytest
from direct_reactor import DirectReactor
from gated_server import answered, expected, gated, rows
from hosted_server import eventually
from raw_http2 import HEADERS, INITIAL_WINDOW_SIZE, RawConnection
from scripted_engines import PATIENCE_SECONDS, Gate
from transports import KINDS, needs_completion_queue

from headrace_proto.names import INFERENCE_SERVICE
from headrace_server.transport.arrived import Arrived
from headrace_server.transport.choice import TransportKind
from headrace_server.transport.open_calls import InferenceLimits
from headrace_server.transport.options import TransportOptions
from headrace_server.transport.status import Status

Ts = TypeVarTuple("Ts")
INFER = f"/{INFERENCE_SERVICE}/ModelInfer"
CALLS = 3


class Clock(DirectReactor):
    """Time passes when the test says so."""

    def later(self, seconds: float, function: Callable[[*Ts], object], *arguments: *Ts) -> threading.Timer:
        self.passes = lambda: function(*arguments)
        return threading.Timer(seconds, function, arguments)


class Arriving:
    """A call that is in one state after the other."""

    def __init__(self) -> None:
        self.state = ""
        self.told: list[str] = []

    def is_unsent(self) -> bool:
        return self.state == "unsent"

    def is_untaken(self) -> bool:
        return self.state == "untaken"

    def give_up(self, status: Status) -> None:
        self.told.append(status.text)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["unsent"] * 4, ""),
        (["unsent"] * 5, "the call's message did not come within 60 s (--message-timeout-secs)"),
        (["untaken"] * 4, ""),
        (["untaken"] * 5, "the call's answer was not taken within 60 s (--message-timeout-secs)"),
        (["unsent"] * 4 + ["untaken"] * 4, ""),
        (["in work"] * 9 + ["untaken"] * 4, ""),
        (["in work"] * 9 + ["untaken"] * 5, "the call's answer was not taken within 60 s"),
    ],
)
def test_a_call_is_ended_that_has_waited_for_its_client_for_all_of_the_time(
    states: list[str], told: str
) -> None:
    clock, call = Clock(), Arriving()
    arrived = Arrived[Arriving](clock, TransportOptions((), InferenceLimits(1, 1, 1, 1)))
    arrived.watch()
    arrived.calls[call] = arrived.looks
    for state in states:
        assert call.told == []
        call.state = state
        clock.passes()
    assert len(call.told) == bool(told)
    assert told in "".join(call.told)


@needs_completion_queue
def test_invariant_4_answers_that_are_not_taken_give_up_their_places() -> None:
    gate = Gate()
    gate.open()
    with (
        gated(
            gate, transport=TransportKind.COMPLETION_QUEUE, max_calls=CALLS, message_timeout_seconds=0.5
        ) as it,
        RawConnection(it.server.address, {INITIAL_WINDOW_SIZE: 0}) as client,
    ):
        streams = range(1, 2 * CALLS, 2)
        for stream in streams:
            client.call(stream, INFER, rows(1).SerializeToString())
        for stream in streams:
            assert b"grpc-status" not in client.await_frame(HEADERS, stream).payload
        for stream in streams:
            told = client.await_frame(HEADERS, stream).payload
            assert b"the call's answer was not taken within 0.5 s (--message-timeout-secs)" in told
        eventually(lambda: it.server.transport.open_calls == 0, "their places are free")
        assert it.server.transport.in_flight_bytes == 0
        assert answered(it.stub.ModelInfer(rows(2), timeout=PATIENCE_SECONDS)) == expected(2)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_are_not_taken_keep_their_places_no_longer_than_their_connection(
    kind: TransportKind,
) -> None:
    gate = Gate()
    gate.open()
    options = {"max_age_ms": 1000, "max_age_grace_ms": 100}
    with (
        gated(gate, transport=kind, max_calls=CALLS, **options) as it,
        RawConnection(it.server.address, {INITIAL_WINDOW_SIZE: 0}) as client,
    ):
        for stream in range(1, 2 * CALLS, 2):
            client.call(stream, INFER, rows(1).SerializeToString())
        while client.read() is not None:
            pass
        eventually(lambda: it.server.transport.open_calls == 0, "their places are free")
        assert it.served.model.statistics.success.count == CALLS
        call = it.stub.ModelInfer.future(rows(2), timeout=PATIENCE_SECONDS)
        assert call.code() is grpc.StatusCode.OK
