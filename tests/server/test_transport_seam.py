"""What a procedure is told of a call, the same by both transports."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hosted_server import HostedServer, eventually, hosted
from scripted_engines import ScriptedEngine, rows_spec, serving
from transports import KINDS

from headrace_proto.names import INFERENCE_SERVICE
from headrace_server.transport.inference import Inference
from headrace_server.transport.seam import StreamCall, UnaryCall
from headrace_server.transport.status import Status

INFER = f"/{INFERENCE_SERVICE}/ModelInfer"
STREAM = f"/{INFERENCE_SERVICE}/ModelStreamInfer"
PATIENCE_SECONDS = 10.0


class Seen:
    """What procedures saw."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.messages: list[bytes | None] = []
        self.ends = 0

    def infer(self, call: UnaryCall, message: bytes) -> None:
        self.calls.append(call)
        self.messages.append(message)
        call.on_end = self._end
        if message == b"raise":
            raise RuntimeError("a secret")
        if message == b"fail":
            call.fail(Status(grpc.StatusCode.DATA_LOSS, "naïve — 100 %"))
        if message != b"wait":
            call.answer(message + b"!")
            call.answer(b"too late")
            call.fail(Status(grpc.StatusCode.INTERNAL, "too late"))

    def _end(self) -> None:
        self.ends += 1


class Echo:
    """A stream that sends back what comes, and so for itself."""

    def __init__(self, call: StreamCall, seen: Seen) -> None:
        self._call = call
        self._seen = seen

    def begin(self) -> None:
        self._call.receive()

    def received(self, message: bytes | None) -> None:
        self._seen.messages.append(message)
        if message is None or message == b"finish":
            self._call.finish(None if message is None else Status(grpc.StatusCode.ABORTED, "so asked"))
            self._call.finish()
        elif message == b"raise":
            raise RuntimeError("a secret")
        else:
            self._call.send(message)

    def sent(self) -> None:
        self._call.receive()

    def ended(self) -> None:
        self._seen.ends += 1


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()

    def infer(_: Inference, call: UnaryCall, message: bytes) -> None:
        seen.infer(call, message)

    monkeypatch.setattr(Inference, "infer", infer)
    monkeypatch.setattr(Inference, "open_stream", lambda _, call: Echo(call, seen))
    return seen


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
def server(request: pytest.FixtureRequest, seen: Seen, tmp_path: Path) -> Iterator[HostedServer]:
    listen = ["127.0.0.1:0", f"unix:{tmp_path}/s"]
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, request.param, listen=listen) as hosting,
    ):
        yield hosting


@pytest.fixture
def channel(server: HostedServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def test_a_call_has_its_message_metadata_deadline_and_peer(channel: grpc.Channel, seen: Seen) -> None:
    metadata = (("a", "1"), ("a", "2"), ("b-bin", b"\x00\xff"))
    assert channel.unary_unary(INFER)(b"hello", timeout=60, metadata=metadata) == b"hello!"
    (call,) = seen.calls
    assert [tuple(one) for one in call.metadata if one[0] in ("a", "b-bin")] == list(metadata)
    assert 50 < call.deadline - time.monotonic() < 61
    eventually(lambda: seen.ends == 1, "the end is told, once")


def test_a_call_without_a_deadline_has_none(channel: grpc.Channel, seen: Seen) -> None:
    channel.unary_unary(INFER)(b"")
    assert seen.calls[0].deadline == math.inf


def test_a_peer_is_known_by_its_address(
    server: HostedServer, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = []

    def infer(call: UnaryCall, message: bytes) -> None:
        peers.append(call.peer())
        call.answer(message)

    monkeypatch.setattr(seen, "infer", infer)
    for address in server.addresses:
        with grpc.insecure_channel(address) as channel:
            channel.unary_unary(INFER)(b"")
    assert peers[0].address.startswith("ipv4:127.0.0.1:")
    assert peers[1].address.startswith("unix:")
    assert all("x509_common_name" not in peer.identity for peer in peers)


def test_a_status_arrives_as_it_was_given(channel: grpc.Channel, seen: Seen) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(INFER)(b"fail")
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.DATA_LOSS, "naïve — 100 %")


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_what_a_procedure_raises_stays_here(channel: grpc.Channel, seen: Seen, path: str) -> None:
    call = channel.stream_stream(path)(iter([b"raise"]))
    with pytest.raises(grpc.RpcError) as failed:
        next(call)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in failed.value.details()
    eventually(lambda: seen.ends == 1, "the end is told, once")


def test_a_caller_who_goes_ends_the_call(channel: grpc.Channel, seen: Seen) -> None:
    call = channel.unary_unary(INFER).future(b"wait")
    eventually(lambda: len(seen.calls) == 1, "the call has come")
    call.cancel()
    eventually(lambda: seen.ends == 1, "the end is told, once")
    call = channel.unary_unary(INFER).future(b"wait", timeout=0.05)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: seen.ends == 2, "the end is told, once")


def test_a_stream_has_its_messages_in_order_and_its_end(channel: grpc.Channel, seen: Seen) -> None:
    sent = [b"%d" % n for n in range(100)]
    call = channel.stream_stream(STREAM)(iter(sent))
    assert list(call) == sent
    assert call.code() is grpc.StatusCode.OK
    assert seen.messages == [*sent, None]
    eventually(lambda: seen.ends == 1, "the end is told, once")


def test_a_streams_status_follows_what_was_sent(channel: grpc.Channel, seen: Seen) -> None:
    call = channel.stream_stream(STREAM)(iter([b"1", b"finish"]))
    assert next(call) == b"1"
    with pytest.raises(grpc.RpcError) as ended:
        next(call)
    assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.ABORTED, "so asked")


def test_a_client_that_does_not_read_is_not_read_from(channel: grpc.Channel, seen: Seen) -> None:
    large = bytes(100_000)
    count = 300
    call = channel.stream_stream(STREAM)(iter([large] * count))
    eventually(lambda: len(seen.messages) >= 2, "the first messages come")
    for _ in range(20):
        channel.unary_unary(INFER)(b"")
    assert len([one for one in seen.messages if one == large]) < count
    assert sum(1 for _ in call) == count


def test_an_unknown_method_is_not_implemented(channel: grpc.Channel) -> None:
    for path in ("/a.B/C", f"/{INFERENCE_SERVICE}/Nothing", "/"):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(path)(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
