"""Messages made to cost much: they are refused, all others are served meanwhile, and memory is bounded."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hosted_server import infer_request
from model_folders import put
from onnx import TensorProto
from onnx_models import Models
from server_process import ServerProcess

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.tensors import from_raw
from headrace_proto.v1 import inference_pb2 as pb

MIB = 1 << 20
MOST_BYTES = 64 * MIB
PATIENCE_SECONDS = 60.0
Code = grpc.StatusCode


@dataclass(frozen=True)
class Server:
    """A process with the models `numbers` and `strings`, both of any width, and channels to it."""

    process: ServerProcess
    hostile: grpc.Channel
    other: grpc.Channel

    def send(self, message: bytes, procedure: str = "ModelInfer") -> grpc.Future:
        """Send these bytes as a request."""
        return self.hostile.unary_unary(f"/{INFERENCE_SERVICE}/{procedure}").future(
            message, timeout=PATIENCE_SECONDS
        )

    def probe(self) -> None:
        """Ask as an honest client does, and expect to be answered."""
        stub = health_pb2_grpc.HealthStub(self.other)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        rows = np.ones((1, 3), np.float32)
        request = infer_request("numbers", ("x", "FP32", rows.shape, rows.tobytes()))
        infer = self.other.unary_unary(
            f"/{INFERENCE_SERVICE}/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        assert infer(request, timeout=PATIENCE_SECONDS).raw_output_contents == [rows.tobytes()]


@pytest.fixture(scope="module")
def server(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    for name, kind in (("numbers", TensorProto.FLOAT), ("strings", TensorProto.STRING)):
        put(folder, name, models.unary("Identity", kind, ("N", "L"), ("N", "L")))
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with ServerProcess(folder) as process:
        address = process.ready()["grpc"]
        with (
            grpc.insecure_channel(address, options) as hostile,
            grpc.insecure_channel(address, options) as other,
        ):
            yield Server(process, hostile, other)


def field(number: int, data: bytes) -> bytes:
    """Return a field of bytes, however long."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def strings(count: int, element: bytes, shape: tuple[int, ...]) -> bytes:
    raw = (len(element).to_bytes(4, "little") + element) * count
    return bytes(infer_request("strings", ("x", "BYTES", shape, raw)).SerializeToString())


def shaped(*shape: int) -> bytes:
    return bytes(infer_request("numbers", ("x", "FP32", shape, b"")).SerializeToString())


FULL = 60 * MIB
BOMBS: dict[str, Callable[[], bytes]] = {
    "empty inputs": lambda: field(5, b"") * (FULL // 2),
    "empty parameters": lambda: field(4, b"") * (FULL // 2),
    "empty raw contents": lambda: field(7, b"") * (FULL // 2),
    "typed strings": lambda: field(1, b"strings") + field(5, field(5, field(8, b"") * (FULL // 2))),
    "dimensions": lambda: field(1, b"numbers") + field(5, field(3, b"\x01" * FULL)),
    "groups in groups": lambda: b"\x9b\x06" * (FULL // 2),
    "strings that are not there": lambda: strings(1, b"", (1, 2**62)),
    "more strings than the shape says": lambda: strings(FULL // 4, b"", (1, 3)),
    "more strings than a request may have": lambda: strings(FULL // 4, b"", (1, FULL // 4)),
    "no text": lambda: strings(1, b"\xff" * FULL, (1, 1)),
    "sides of which one is nothing": lambda: shaped(1, 0, *[2**63 - 1] * 62),
    "sides beyond any memory": lambda: shaped(*[2**63 - 1] * 64),
    "a negative side": lambda: shaped(1, -(2**63)),
    "more rows than fit": lambda: shaped(2**63 - 1, 1),
}


def empty(number: int) -> bytes:
    """Return as many empty fields as fit."""
    return field(number, b"") * (FULL // 2)


CONTROL_BOMBS: dict[str, tuple[str, Callable[[], bytes], grpc.StatusCode]] = {
    "trace settings": ("TraceSetting", lambda: empty(1), Code.RESOURCE_EXHAUSTED),
    "trace settings, compressed": (
        "TraceSetting", lambda: gzip.compress(empty(1)), Code.RESOURCE_EXHAUSTED,
    ),
    "log settings": ("LogSettings", lambda: empty(1), Code.RESOURCE_EXHAUSTED),
    "a model's name": ("ModelMetadata", lambda: field(1, b"x" * FULL), Code.RESOURCE_EXHAUSTED),
    "parameters of a load": ("RepositoryModelLoad", lambda: empty(3), Code.FAILED_PRECONDITION),
    "parameters of an unload": ("RepositoryModelUnload", lambda: empty(3), Code.FAILED_PRECONDITION),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROL_BOMBS)
def test_invariant_4_other_calls_made_to_cost_much_are_refused_unread(server: Server, name: str) -> None:
    procedure, message, code = CONTROL_BOMBS[name]
    before = server.process.peak_memory_bytes()
    call = server.send(message(), procedure)
    server.probe()
    assert call.code() is code, call.details()
    assert server.process.peak_memory_bytes() - before < 256 * MIB


@pytest.mark.parametrize("name", BOMBS)
def test_invariant_4_a_message_made_to_cost_much_is_refused_and_others_are_served_meanwhile(
    server: Server, name: str
) -> None:
    call = server.send(BOMBS[name]())
    server.probe()
    assert call.code() is Code.INVALID_ARGUMENT, call.details()
    server.probe()


def test_an_unknown_field_of_any_size_is_passed_over(server: Server) -> None:
    row = np.ones((1, 3), np.float32)
    request = infer_request("numbers", ("x", "FP32", (1, 3), row.tobytes())).SerializeToString()
    answer = pb.ModelInferResponse.FromString(server.send(request + field(99, bytes(FULL))).result())
    assert answer.raw_output_contents == [row.tobytes()]


def test_more_than_a_message_may_have_is_refused_unread(server: Server) -> None:
    call = server.send(bytes(MOST_BYTES + 1))
    assert call.code() is Code.RESOURCE_EXHAUSTED
    assert str(MOST_BYTES) in call.details()
    server.probe()


def test_as_many_strings_as_a_request_may_have_are_answered_and_so_are_others(server: Server) -> None:
    count, element = 1 << 20, b"fifty-six bytes, which are sixty with those of its length"[:56]
    call = server.send(strings(count, element, (1, count)))
    server.probe()
    answer = pb.ModelInferResponse.FromString(call.result())
    assert from_raw(answer.raw_output_contents[0], "BYTES", (1, count))[0, -1] == element


def test_invariant_4_memory_stays_bounded(server: Server) -> None:
    """After all of the above, and after many at once."""
    calls = [server.send(BOMBS["empty inputs"]()) for _ in range(4)]
    calls += [server.send(BOMBS["more strings than a request may have"]()) for _ in range(4)]
    server.probe()
    assert {call.code() for call in calls} == {Code.INVALID_ARGUMENT}
    assert server.process.peak_memory_bytes() < 2048 * MIB
