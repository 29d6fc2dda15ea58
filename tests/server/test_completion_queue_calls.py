"""What calls become that no library would make, on gRPC's core driven directly."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import grpc
import pytest
from gated_server import Gated, answered, expected, gated, rows
from hosted_server import eventually
from raw_http2 import DATA, END_STREAM, HEADERS, RawConnection
from scripted_engines import PATIENCE_SECONDS, Gate
from transports import needs_completion_queue

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.transport.choice import TransportKind

pytestmark = needs_completion_queue

INFER = f"/{INFERENCE_SERVICE}/ModelInfer"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def it() -> Iterator[Gated]:
    gate = Gate()
    gate.open()
    with gated(gate, transport=TransportKind.COMPLETION_QUEUE, max_message_bytes=10_000) as it:
        yield it


@pytest.fixture
def channel(it: Gated) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(it.server.address) as channel:
        yield channel


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4) + message


def status(it: Gated, body: bytes, **headers: str) -> bytes:
    """Send these bytes as a call's body; return the headers that end it."""
    with RawConnection(it.server.address) as connection:
        connection.call(1, INFER, None, **headers)
        connection.send(DATA, END_STREAM, 1, body)
        frame = connection.await_frame(HEADERS, 1)
        while not frame.flags & END_STREAM:
            frame = connection.await_frame(HEADERS, 1)
        return frame.payload


@pytest.mark.parametrize(
    ("body", "headers", "code", "text"),
    [
        (b"", {}, b"12", b"a unary call needs one message"),
        (framed(b"\xff\xff"), {}, b"3", b"its bytes cannot be parsed"),
        (framed(bytes(15_000)), {}, b"8", b"larger than max"),
        (framed(b"x", 1), {}, b"13", b"ompress"),
        (framed(b"no gzip", 1), {"grpc_encoding": "gzip"}, b"3", b"its bytes cannot be parsed"),
        (framed(b"\x1f\x8b", 1), {"grpc_encoding": "gzip"}, b"3", b"came compressed"),
        (framed(gzip.compress(bytes(1_000_000)), 1), {"grpc_encoding": "gzip"}, b"8", b"larger than max"),
    ],
)
def test_what_a_body_is_told(
    it: Gated, body: bytes, headers: dict[str, str], code: bytes, text: bytes
) -> None:
    block = status(it, body, **headers)
    assert b"grpc-status" + bytes((len(code),)) + code in block
    assert text in block
    assert answered(it.stub.ModelInfer(rows(1))) == expected(1)


def test_a_compressed_message_is_read(it: Gated) -> None:
    message = gzip.compress(rows(*range(8)).SerializeToString())
    block = status(it, framed(message, 1), grpc_encoding="gzip")
    assert b"grpc-status\x010" in block


def test_of_two_messages_the_first_counts(channel: grpc.Channel) -> None:
    message = rows(4).SerializeToString()
    (answer,) = channel.stream_stream(INFER)(iter([message, b"\xff"]), timeout=PATIENCE_SECONDS)
    assert answered(pb.ModelInferResponse.FromString(answer)) == expected(4)


def test_metadata_that_is_too_large_is_refused(it: Gated) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        it.stub.ModelInfer(rows(1), metadata=(("a", "x" * 20_000),), timeout=PATIENCE_SECONDS)
    assert refused.value.code() is Code.RESOURCE_EXHAUSTED
    assert answered(it.stub.ModelInfer(rows(1))) == expected(1)


def test_a_call_for_nothing_is_told_at_once_though_its_message_is_to_come(it: Gated) -> None:
    with RawConnection(it.server.address) as connection:
        connection.call(1, "/no.Such/Method", None)
        block = connection.await_frame(HEADERS, 1).payload
    assert b"grpc-status\x0212" in block


def test_invariant_4_calls_that_never_send_a_message_are_bounded() -> None:
    with gated(transport=TransportKind.COMPLETION_QUEUE, max_calls=1) as it:
        connections = [RawConnection(it.server.address) for _ in range(3)]
        for connection in connections:
            for stream in range(1, 2 * 400, 2):
                connection.call(stream, INFER, None)
            connection.synchronise()
        assert it.stub.ServerLive.future(pb.ServerLiveRequest()).code() is Code.RESOURCE_EXHAUSTED
        for connection in connections:
            connection.__exit__(None, None, None)

        def is_served() -> bool:
            return it.stub.ServerLive.future(pb.ServerLiveRequest()).code() is Code.OK

        eventually(is_served, "there is room again")
