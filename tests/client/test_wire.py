"""Streams that tell of what happens to them, by grpcio's core and by its public interface alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from fake_servers import answer

from headrace import core_support
from headrace.status import Ended
from headrace.wire import IteratedWire, Wire
from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb

PATIENCE_SECONDS = 10


@pytest.fixture(params=["core", "iterated"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Both kinds of wires, as far as they go with this grpcio."""
    if request.param == "iterated":
        return IteratedWire
    if reason := core_support.why_not():
        pytest.skip(reason)
    from headrace.core_wire import CoreWire

    return CoreWire


@pytest.fixture
def method(serve: Any) -> Iterator[Any]:
    """What opens a stream to a server that behaves as a test says: `method(stream)`."""
    channels = []

    def connect(stream: Any) -> Any:
        channels.append(grpc.insecure_channel(serve(stream=stream).address))
        return channels[-1].stream_stream(f"/{INFERENCE_SERVICE}/ModelStreamInfer")

    yield connect
    for channel in channels:
        channel.close()


class Owner:
    """Sends its messages one after another and asks for answers one at a time; `ends` gets the end."""

    def __init__(self, kind: Any, method: Any, messages: list[bytes]) -> None:
        self.lock = threading.Lock()
        self.messages = iter(messages)
        self.asked = 1
        self.answers: list[bytes] = []
        self.came: SimpleQueue[bytes] = SimpleQueue()
        self.ends: SimpleQueue[Ended | None] = SimpleQueue()
        with self.lock:
            self.wire: Wire = kind(method, self.lock, self)
            self.wire.receive()
            self.sent()

    def sent(self) -> None:
        assert self.lock.locked()
        message = next(self.messages, None)
        if message is None:
            self.wire.finish()
        else:
            self.wire.send(message)

    def received(self, message: bytes) -> None:
        assert self.lock.locked()
        self.answers.append(message)
        self.came.put(message)
        assert len(self.answers) == self.asked, "one came that was not asked for"
        self.asked += 1
        self.wire.receive()

    def ended(self, status: Ended | None) -> None:
        self.ends.put(status)

    def end(self) -> Ended | None:
        """Wait for the end, which must be the only one."""
        status = self.ends.get(timeout=PATIENCE_SECONDS)
        assert self.ends.empty()
        return status


def requests(count: int) -> list[bytes]:
    return [pb.ModelInferRequest(model_name="m", id=str(n)).SerializeToString() for n in range(count)]


def ids(answers: list[bytes]) -> list[str]:
    return [pb.ModelStreamInferResponse.FromString(answer).infer_response.id for answer in answers]


@pytest.mark.parametrize("count", [0, 1, 500])
def test_messages_go_both_ways_in_order(kind: Any, method: Any, count: int) -> None:
    owner = Owner(kind, method(lambda given, context: map(answer, given)), requests(count))
    assert owner.end() is None
    assert ids(owner.answers) == [str(number) for number in range(count)]


def test_answers_that_come_before_the_end_are_told_before_it(kind: Any, method: Any) -> None:
    def several(given: Any, context: Any) -> Iterator[Any]:
        for request in given:
            for _ in range(100):
                yield answer(request)
        context.abort(grpc.StatusCode.ABORTED, "that was it")

    owner = Owner(kind, method(several), requests(1))
    assert owner.end() is not None
    assert ids(owner.answers) == ["0"] * 100


def test_a_status_is_told_with_what_came_with_it(kind: Any, method: Any) -> None:
    def refuse(given: Any, context: Any) -> Any:
        context.set_trailing_metadata((("why-bin", b"\x00\xff"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "zu viel für mich")

    status = Owner(kind, method(refuse), requests(3)).end()
    assert status is not None
    assert status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status.details() == "zu viel für mich"
    assert ("why-bin", b"\x00\xff") in [(key, value) for key, value in status.trailing_metadata() or ()]


def test_a_server_that_is_not_there(kind: Any) -> None:
    with grpc.insecure_channel("unix:/nonexistent/socket") as channel:
        status = Owner(kind, channel.stream_stream("/a.B/C"), requests(1)).end()
        assert status is not None
        assert status.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stream_is_cancelled_at_the_server_too(kind: Any, method: Any) -> None:
    cancelled = threading.Event()

    def hold(given: Any, context: Any) -> Iterator[Any]:
        context.add_callback(cancelled.set)
        yield answer(next(given))
        cancelled.wait(PATIENCE_SECONDS)

    owner = Owner(kind, method(hold), requests(1))
    owner.came.get(timeout=PATIENCE_SECONDS)
    with owner.lock:
        owner.wire.cancel()
    status = owner.end()
    assert status is not None
    assert status.code() is grpc.StatusCode.CANCELLED
    assert cancelled.wait(PATIENCE_SECONDS)


def test_what_is_begun_after_the_end_changes_nothing(kind: Any, method: Any) -> None:
    owner = Owner(kind, method(lambda given, context: map(answer, given)), requests(1))
    assert owner.end() is None
    with owner.lock:
        owner.wire.receive()
        owner.wire.send(b"late")
        owner.wire.finish()
        owner.wire.cancel()
    assert len(owner.answers) == 1
    assert owner.ends.empty()


def test_a_channel_that_is_closed(kind: Any) -> None:
    channel = grpc.insecure_channel("127.0.0.1:1")
    method = channel.stream_stream("/a.B/C")
    channel.close()
    with pytest.raises(ValueError, match="closed"):
        Owner(kind, method, [])


def test_a_channel_that_is_closed_ends_its_streams(kind: Any, serve: Any) -> None:
    with grpc.insecure_channel(serve().address) as channel:
        owner = Owner(kind, channel.stream_stream(f"/{INFERENCE_SERVICE}/ModelStreamInfer"), [])
        channel.close()
        status = owner.end()
    assert status is None or status.code() is grpc.StatusCode.CANCELLED


class Closing(Owner):
    """One that closes the channel as soon as the stream has ended."""

    def __init__(self, kind: Any, channel: grpc.Channel, messages: list[bytes]) -> None:
        self.channel = channel
        super().__init__(kind, channel.stream_stream(f"/{INFERENCE_SERVICE}/ModelStreamInfer"), messages)

    def ended(self, status: Ended | None) -> None:
        self.channel.close()
        super().ended(status)


def test_the_channel_may_be_closed_where_the_end_is_told(kind: Any, serve: Any) -> None:
    owner = Closing(kind, grpc.insecure_channel(serve().address), requests(20))
    assert owner.end() is None
    assert len(owner.answers) == 20


class Faulty(Owner):
    """One that fails at its first answer."""

    def received(self, message: bytes) -> None:
        raise RuntimeError("on purpose")


def test_an_owner_that_fails_ends_its_own_stream_alone(method: Any, caplog: pytest.LogCaptureFixture) -> None:
    if reason := core_support.why_not():
        pytest.skip(reason)
    from headrace.core_wire import CoreWire

    stream = method(lambda given, context: map(answer, given))
    other = Owner(CoreWire, stream, requests(200))
    status = Faulty(CoreWire, stream, requests(2)).end()
    assert status is not None
    assert "on purpose" in caplog.text
    assert other.end() is None
    assert len(other.answers) == 200
