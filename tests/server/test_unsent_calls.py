"""Calls whose message does not come: they hold a place for a while, are counted, and keep nobody out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from gated_server import Gated, answered, expected, gated, rows
from hosted_server import eventually
from raw_http2 import RawConnection
from request_streams import Requests, closed
from scripted_engines import PATIENCE_SECONDS
from transports import KINDS

from headrace_proto.names import INFERENCE_SERVICE
from headrace_server.transport.choice import TransportKind

Code = grpc.StatusCode
INFER = f"/{INFERENCE_SERVICE}/ModelInfer"
BESIDE = 1024
"""Calls that may be open beside those that infer."""


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> TransportKind:
    """Return which transport serves."""
    found: TransportKind = request.param
    return found


@contextlib.contextmanager
def begun(it: Gated, *messages: Requests) -> Iterator[list[Any]]:
    """Begin unary calls that send what a test lets them."""
    with grpc.insecure_channel(it.server.address) as channel:
        method = channel.stream_stream(INFER)
        yield [method(half) for half in messages]
        for half in messages:
            half.close()


def test_a_unary_call_that_ends_without_a_message_is_refused(kind: TransportKind) -> None:
    with gated(transport=kind) as it, begun(it, closed()) as (call,):
        assert (call.code(), call.details()) == (Code.UNIMPLEMENTED, "a unary call needs one message")
        assert it.server.transport.unsent_calls == 0


def test_invariant_4_calls_that_send_nothing_are_counted_and_ended(kind: TransportKind) -> None:
    silent = [Requests() for _ in range(3)]
    with gated(transport=kind, message_timeout_seconds=1.0) as it, begun(it, *silent) as calls:
        eventually(lambda: it.server.transport.unsent_calls == 3, "they are counted")
        assert it.server.transport.open_calls == 0
        told = {(call.code(), call.details()) for call in calls}
        text = "the call's message did not come within 1 s (--message-timeout-secs)"
        assert told == {(Code.DEADLINE_EXCEEDED, text)}
        assert it.server.transport.unsent_calls == 0
        it.gate.open()
        assert answered(it.stub.ModelInfer(rows(1), timeout=PATIENCE_SECONDS)) == expected(1)


def test_calls_that_wait_for_their_answer_and_streams_have_all_the_time(kind: TransportKind) -> None:
    with gated(transport=kind, message_timeout_seconds=0.1) as it, contextlib.ExitStack() as opened:
        busy = it.occupy()
        half = Requests()
        stream = it.stub.ModelStreamInfer(half)
        eventually(lambda: it.server.transport.open_streams == 1, "the stream is open")
        for _ in range(2):
            (late,) = opened.enter_context(begun(it, Requests()))
            assert late.code() is Code.DEADLINE_EXCEEDED
        it.gate.open()
        assert answered(busy.result(PATIENCE_SECONDS)) == expected(0)
        half.put(rows(1))
        assert answered(next(stream).infer_response) == expected(1)
        half.close()


def test_invariant_4_one_call_too_many_is_told_the_limit_and_its_setting(kind: TransportKind) -> None:
    with gated(transport=kind, max_calls=1) as it, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(RawConnection(it.server.address)) for _ in range(5)]
        for number in range(BESIDE + 1):
            clients[number % 5].call(2 * (number // 5) + 1, INFER, None)
        eventually(lambda: it.server.transport.unsent_calls == BESIDE + 1, "every place is taken")
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(rows(1), timeout=PATIENCE_SECONDS)
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        assert refused.value.details() == (
            "1025 calls are open, those that wait for their message included; the limit is "
            "--max-concurrent-calls, 1, and 1024 beside"
        )
        assert "grpc-status-details-bin" in dict(refused.value.trailing_metadata())  # when to come back
        clients[0].__exit__(None, None, None)
        it.gate.open()
        eventually(lambda: it.server.transport.unsent_calls <= BESIDE - 200, "there is room again")
        assert answered(it.stub.ModelInfer(rows(1), timeout=PATIENCE_SECONDS)) == expected(1)
