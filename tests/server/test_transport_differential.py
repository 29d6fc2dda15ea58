"""Both transports give the same answers to the same bytes, valid or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import pytest
from gated_server import rows
from hosted_server import hosted, infer_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engines import ScriptedEngine, rows_spec, serving
from transports import needs_completion_queue

from headrace_proto.names import SERVICES
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.errors import InvalidInput
from headrace_server.transport.choice import TransportKind
from headrace_server.transport.diagnostics import Diagnostics, LogValue

pytestmark = needs_completion_queue

METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["InferenceService"].methods]
PATHS = [f"/{service}/{name}" for service in SERVICES for name in METHODS]
PATHS += ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/no.Such/Method"]
PATIENCE_SECONDS = 10.0
VALID = [
    rows(1, 2, id="valid").SerializeToString(),
    rows(1, model="none").SerializeToString(),
    rows(1, sequence_id=3).SerializeToString(),
    infer_request("m", ("x", "FP32", (1, 1), bytes(4))).SerializeToString(),
    pb.ModelMetadataRequest(name="m").SerializeToString(),
    pb.TraceSettingRequest(model_name="m", settings={"trace_rate": {"value": ["1"]}}).SerializeToString(),
    b"",
]


class Told(NamedTuple):
    """All that a client is told, but for what is different each time."""

    answers: tuple[bytes, ...]
    code: grpc.StatusCode
    text: str
    details: bytes


class Log:
    """Settings of which none can be changed."""

    def settings(self) -> Mapping[str, LogValue]:
        return {"log_info": True}

    def change(self, values: Mapping[str, LogValue | None]) -> None:
        if values:
            raise InvalidInput(f"{sorted(values.items())} came")


class Traces:
    """Likewise, by model."""

    def settings(self, model: str) -> Mapping[str, Sequence[str]]:
        return {"trace_file": [model]}

    def change(self, model: str, values: Mapping[str, Sequence[str]]) -> None:
        if values:
            raise InvalidInput(f"{sorted((name, list(value)) for name, value in values.items())} came")


@pytest.fixture(scope="module")
def channels() -> Iterator[list[grpc.Channel]]:
    """A connection to each transport, over the same models."""
    kinds = (TransportKind.AIO, TransportKind.COMPLETION_QUEUE)
    procedures = Diagnostics(Log(), Traces()).procedures()
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, kinds[0], procedures=procedures) as aio,
        hosted(served.service, kinds[1], procedures=procedures) as completion_queue,
        grpc.insecure_channel(aio.address) as one,
        grpc.insecure_channel(completion_queue.address) as other,
    ):
        yield [one, other]


def told(channel: grpc.Channel, path: str, messages: list[bytes], **options: Any) -> Told:
    call = channel.stream_stream(path)(iter(messages), timeout=PATIENCE_SECONDS, **options)
    answers: list[bytes] = []
    with contextlib.suppress(grpc.RpcError):
        for answer in call:
            answers.append(answer)
            if path.endswith("Watch"):
                call.cancel()
    text = call.details() or ""
    trailers = dict(call.trailing_metadata() or ())
    if call.code() is grpc.StatusCode.UNIMPLEMENTED and path == "/no.Such/Method":
        text = ""  # grpc.aio's own words
    details = trailers.get("grpc-status-details-bin", b"")
    return Told(tuple(answers), call.code(), text, details if isinstance(details, bytes) else b"")


def mutated(message: bytes, at: int, kind: str, byte: int) -> bytes:
    at %= len(message) + 1
    if kind == "cut":
        return message[:at]
    if kind == "insert":
        return message[:at] + bytes((byte,)) + message[at:]
    return message[:at] + bytes((byte,)) + message[at + 1 :]


messages = st.one_of(
    st.sampled_from(VALID),
    st.binary(max_size=64),
    st.builds(
        mutated,
        st.sampled_from(VALID),
        st.integers(0, 200),
        st.sampled_from(["cut", "insert", "replace"]),
        st.integers(0, 255),
    ),
)


@pytest.mark.parametrize("path", [path for path in PATHS if not path.endswith("Statistics")])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=messages)
def test_one_message_is_answered_alike(channels: list[grpc.Channel], path: str, message: bytes) -> None:
    one, other = (told(channel, path, [message]) for channel in channels)
    assert one == other


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(messages, max_size=6), ends_with_error=st.booleans())
def test_streams_are_answered_alike(
    channels: list[grpc.Channel], sent: list[bytes], ends_with_error: bool
) -> None:
    metadata = (("triton_grpc_error", "true"),) if ends_with_error else ()
    path = f"/{SERVICES[0]}/ModelStreamInfer"
    one, other = (told(channel, path, sent, metadata=metadata) for channel in channels)
    assert (one.code, one.text, one.details) == (other.code, other.text, other.details)
    if not ends_with_error:
        assert sorted(one.answers) == sorted(other.answers)


@pytest.mark.parametrize("path", [PATHS[0], "/grpc.health.v1.Health/Check"])
@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_compressed_messages_are_answered_alike(
    channels: list[grpc.Channel], path: str, compression: grpc.Compression
) -> None:
    one, other = (told(channel, path, [b""], compression=compression) for channel in channels)
    assert one == other
