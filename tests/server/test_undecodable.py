"""Callers who send bytes where gRPC says that there is text: they harm themselves alone."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import grpc
import pytest
from gated_server import answered, expected, gated, rows
from hosted_server import connected, eventually, hosted
from model_folders import put
from onnx import TensorProto
from onnx_models import Models
from raw_http2 import HEADERS, RawConnection
from scripted_engines import PATIENCE_SECONDS, ScriptedEngine, rows_spec, serving
from server_process import ServerProcess
from transports import KINDS

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.transport.choice import TransportKind

LIVE = f"/{INFERENCE_SERVICE}/ServerLive"
NO_TEXT = "\udcff\udcfe"
"""The bytes FF FE."""


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> TransportKind:
    """Return which transport serves."""
    found: TransportKind = request.param
    return found


def call_nothing(address: str) -> bytes:
    """Call a path that is no text; return the headers of the answer."""
    with RawConnection(address) as connection:
        connection.call(1, f"/{NO_TEXT}")
        return connection.await_frame(HEADERS, 1).payload


def is_live(address: str) -> bool:
    """Ask on a connection of its own."""
    with connected(address) as stub:
        try:
            return bool(stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_SECONDS).live)
        except grpc.RpcError:
            return False


def await_live(*addresses: str) -> None:
    """Wait until the server answers at every address."""
    for address in addresses:
        eventually(partial(is_live, address), f"{address} is answered at")


def test_a_path_that_is_no_text_ends_its_own_call_alone(kind: TransportKind) -> None:
    with gated(transport=kind) as it:
        accepted = it.occupy()
        told = call_nothing(it.server.address)
        assert (b"\x0212" in told) == (kind is TransportKind.COMPLETION_QUEUE)  # UNIMPLEMENTED
        await_live(it.server.address)
        it.gate.open()
        assert answered(accepted.result(PATIENCE_SECONDS)) == expected(0)
        assert answered(it.stub.ModelInfer(rows(1), wait_for_ready=True)) == expected(1)


def test_every_address_is_listened_on_after_each_such_path(kind: TransportKind, tmp_path: Path) -> None:
    path = tmp_path / "it.sock"
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, kind, listen=["127.0.0.1:0", "127.0.0.1:0", f"unix:{path}"]) as server,
    ):
        for _ in range(3):
            call_nothing(server.address)
            await_live(*server.addresses)
    assert not path.exists()


def test_a_server_can_be_stopped_while_it_begins_anew(kind: TransportKind) -> None:
    with serving(ScriptedEngine(rows_spec())) as served, hosted(served.service, kind) as server:
        call_nothing(server.address)


def test_bytes_for_text_do_not_fill_the_log(kind: TransportKind, models: Models, tmp_path: Path) -> None:
    put(tmp_path, "m", models.unary("Identity", TensorProto.FLOAT, ("N", 1), ("N", 1)))
    with ServerProcess(tmp_path, "--grpc-transport", kind.value) as server:
        address = server.ready()["grpc"]
        for _ in range(5):
            with RawConnection(address) as connection:
                for stream in range(1, 21, 2):
                    connection.call(stream, LIVE, x=NO_TEXT)
                    connection.await_frame(HEADERS, stream)
        call_nothing(address)
        await_live(address)
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert len([line for line in server.log if "Invalid encoding on" in line]) == 1
        lost = [line for line in server.log if "grpc.aio takes no calls in any more" in line]
        assert len(lost) <= (kind is TransportKind.AIO)  # grpcio 1.76 has not the fault
