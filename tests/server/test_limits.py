"""What clients may hold: beyond it RESOURCE_EXHAUSTED with the time to come back, and all others served."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from gated_server import Gated, answered, expected, gated, rows
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hosted_server import eventually
from raw_http2 import RST_STREAM, RawConnection
from request_streams import Requests, closed
from scripted_engines import PATIENCE_SECONDS
from shared_objects import shared_object

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits

Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING

Fill = Callable[[Gated, grpc.Channel], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Limit:
    """What fills it, and what is then one too many."""

    text: str
    fill: Fill
    beyond: Callable[[grpc.Channel], Any]
    options: dict[str, Any] = field(default_factory=dict)
    is_model: bool = False
    """Whether inference is what has run out."""


def retry_seconds(error: Any) -> float:
    """Return what RetryInfo says, which must be there."""
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(packed).details)
    return float(info.retry_delay.ToNanoseconds() * 1e-9)


def infer(channel: grpc.Channel, *values: int) -> Any:
    stub = channel.unary_unary(
        f"/{INFERENCE_SERVICE}/ModelInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelInferResponse.FromString,
    )
    return stub.future(rows(*values), timeout=PATIENCE_SECONDS)


@contextlib.contextmanager
def waiting_calls(it: Gated, channel: grpc.Channel, count: int, *values: int) -> Iterator[None]:
    calls = [infer(channel, *values)]
    it.gate.arrival()
    calls += [infer(channel, *values) for _ in range(count - 1)]
    it.await_waiting(count - 1)
    yield
    it.gate.open()
    assert [call.result() is not None for call in calls] == [True] * count


@contextlib.contextmanager
def open_streams(calls: list[Any], halves: list[Requests]) -> Iterator[None]:
    """Hold streams of any procedure that have begun."""
    yield
    for half in halves:
        half.close()
    for call in calls:
        call.cancel()


def streams(it: Gated, channel: grpc.Channel) -> Any:
    halves = [Requests() for _ in range(2)]
    calls = [it.stub.ModelStreamInfer(half) for half in halves]
    eventually(lambda: it.server.transport.open_streams == 2, "the streams are open")
    return open_streams(calls, halves)


def a_stream(channel: grpc.Channel) -> Any:
    stub = channel.stream_stream(
        f"/{INFERENCE_SERVICE}/ModelStreamInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelStreamInferResponse.FromString,
    )
    return list(stub(iter([rows(1)]), timeout=PATIENCE_SECONDS))


def watch(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())


def watchers(it: Gated, channel: grpc.Channel) -> Any:
    calls = [watch(channel) for _ in range(512)]
    for call in calls:
        next(call)
    return open_streams(calls, [])


def question(half: Any, channel: grpc.Channel) -> Any:
    return reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(half)


def readers(it: Gated, channel: grpc.Channel) -> Any:
    halves = [Requests(reflection_pb2.ServerReflectionRequest(list_services="")) for _ in range(64)]
    calls = [question(half, channel) for half in halves]
    for call in calls:
        next(call)
    return open_streams(calls, halves)


def ask(channel: grpc.Channel) -> Any:
    return list(question(closed(reflection_pb2.ServerReflectionRequest(list_services="")), channel))


LIMITS = [
    Limit(
        "2 calls are open, which is the limit", lambda it, channel: waiting_calls(it, channel, 2, 1),
        lambda channel: infer(channel, 1).result(), {"max_calls": 2}, is_model=True,
    ),
    Limit(
        "bytes are in flight, the limit is 200", lambda it, channel: waiting_calls(it, channel, 1, *range(8)),
        lambda channel: infer(channel, *range(8)).result(), {"max_in_flight_bytes": 200}, is_model=True,
    ),
    Limit(
        "queue full: 1 requests wait", lambda it, channel: waiting_calls(it, channel, 2, 1),
        lambda channel: infer(channel, 1).result(), {"limits": Limits(max_queue_size=1)}, is_model=True,
    ),
    Limit(
        "queue full: ", lambda it, channel: waiting_calls(it, channel, 2, *range(8)),
        lambda channel: infer(channel, 1).result(), {"limits": Limits(max_queue_bytes=64)}, is_model=True,
    ),
    Limit("2 streams are open, which is the limit", streams, a_stream, {"max_streams": 2}),
    Limit("512 calls watch health, which is the limit", watchers, lambda channel: next(watch(channel))),
    Limit("64 streams of reflection are open, which is the limit", readers, ask),
]  # fmt: skip


def health(channel: grpc.Channel) -> int:
    answer = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS
    )
    return int(answer.status)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.text)
def test_invariant_4_beyond_a_limit_callers_are_told_when_to_come_back_and_others_are_served(
    limit: Limit,
) -> None:
    with (
        gated(**limit.options) as it,
        grpc.insecure_channel(it.server.address) as hostile,
        grpc.insecure_channel(it.server.address, [("grpc.use_local_subchannel_pool", 1)]) as other,
    ):
        if not limit.is_model:
            it.gate.open()
        with limit.fill(it, hostile):
            for _ in range(3):
                with pytest.raises(grpc.RpcError) as refused:
                    limit.beyond(other)
                assert refused.value.code() is Code.RESOURCE_EXHAUSTED
                assert limit.text in refused.value.details()
                assert 0 < retry_seconds(refused.value) <= 60
            assert health(other) == SERVING
            if not limit.is_model:
                assert answered(infer(other, 5).result()) == expected(5)

        def is_free() -> bool:
            with contextlib.suppress(grpc.RpcError):
                limit.beyond(other)
                return True
            return False

        eventually(is_free, "there is room again")


def test_invariant_4_one_connection_that_begins_calls_and_sends_nothing_leaves_room_for_others() -> None:
    with gated(max_calls=1) as it, RawConnection(it.server.address) as hostile:
        it.gate.open()
        last = 2 * 1100 + 1
        for stream in range(1, last + 1, 2):
            hostile.call(stream, f"/{INFERENCE_SERVICE}/ModelInfer", None)
        hostile.await_frame(RST_STREAM, last)
        assert answered(it.stub.ModelInfer(rows(1), timeout=PATIENCE_SECONDS)) == expected(1)
        with grpc.insecure_channel(it.server.address) as channel:
            assert health(channel) == SERVING


def test_a_message_beyond_the_limit_is_refused_and_names_it() -> None:
    with gated(max_message_bytes=10_000) as it:
        it.gate.open()
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(rows(*range(5_000)), timeout=PATIENCE_SECONDS)
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        assert "10000" in refused.value.details()
        assert answered(it.stub.ModelInfer(rows(1))) == expected(1)


def test_shared_memory_regions_beyond_the_limit() -> None:
    with shared_object(bytes(8)) as shared, gated(allow_client_shm=True) as it:
        it.gate.open()

        def register(number: int) -> Any:
            return pb.SystemSharedMemoryRegisterRequest(name=str(number), key=shared.key, byte_size=8)

        for number in range(4096):
            it.stub.SystemSharedMemoryRegister(register(number))
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.SystemSharedMemoryRegister(register(4096))
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        assert retry_seconds(refused.value) > 0
        assert answered(it.stub.ModelInfer(rows(1))) == expected(1)
