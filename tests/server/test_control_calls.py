"""What the calls beside inference may cost: in bytes, in threads, and once their callers have gone."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from gated_programs import GatedProgram
from google.rpc import error_details_pb2, status_pb2
from hosted_server import HostedServer, connected, eventually, hosted
from scripted_engines import PATIENCE_SECONDS

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.service import Service
from headrace_server.models.repository import Mode, Repository, RepositoryOptions
from headrace_server.models.versions import LoadOptions

Code = grpc.StatusCode
MIB = 1 << 20
MOST_LOADS = 256
SHORT = sorted(
    {method.name for method in pb.DESCRIPTOR.services_by_name["InferenceService"].methods}
    - {"ModelInfer", "ModelStreamInfer", "RepositoryModelLoad", "TraceSetting", "LogSettings"}
)


@dataclass(frozen=True)
class Loading:
    """A server whose model `slow` is being loaded, for a caller who waits, until its gate opens."""

    server: HostedServer
    stub: InferenceServiceStub
    slow: GatedProgram

    def load(self, request: Any) -> Any:
        return self.stub.RepositoryModelLoad.future(request, timeout=PATIENCE_SECONDS)

    def send(self, procedure: str, message: bytes) -> Any:
        with grpc.insecure_channel(self.server.address, [("grpc.max_send_message_length", -1)]) as channel:
            call = channel.unary_unary(f"/{INFERENCE_SERVICE}/{procedure}")
            with pytest.raises(grpc.RpcError) as refused:
                call(message, timeout=PATIENCE_SECONDS)
        return refused.value

    @property
    def held_bytes(self) -> int:
        return self.server.transport.in_flight_bytes


@contextmanager
def loading(folder: Path, **options: Any) -> Iterator[Loading]:
    slow = GatedProgram(folder, "slow", 1, gate="load", adds=1)
    repository = Repository(RepositoryOptions((folder,), Mode.EXPLICIT, load=LoadOptions(allow_python=True)))
    repository.open()
    repository.load_all()
    with (
        hosted(Service(repository.catalogue, repository), max_message_bytes=64 * MIB, **options) as server,
        connected(server.address) as stub,
    ):
        it = Loading(server, stub, slow)
        first = it.load(pb.RepositoryModelLoadRequest(model_name="slow"))
        eventually(lambda: slow.loads == 1, "the model is being loaded")
        try:
            yield it
        finally:
            slow.open()
        first.exception()
    assert repository.close(PATIENCE_SECONDS)


def upload(size_bytes: int) -> pb.RepositoryModelLoadRequest:
    request = pb.RepositoryModelLoadRequest(model_name="slow")
    request.parameters["config"].string_param = "{}"
    request.parameters["file:1/model.onnx"].bytes_param = bytes(size_bytes)
    return request


def retry_seconds(error: Any) -> float:
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(packed).details)
    return float(info.retry_delay.ToNanoseconds() * 1e-9)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where callers' files are written."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_invariant_4_what_waits_to_be_loaded_is_held_and_not_written_until_its_caller_goes(
    tmp_path: Path, scratch: Path
) -> None:
    with loading(tmp_path / "models", max_in_flight_bytes=40 * MIB) as it:
        before = it.held_bytes
        waiting = [it.load(upload(4 * MIB)) for _ in range(3)]
        eventually(lambda: it.held_bytes - before >= 36 * MIB, "three are held")
        compressed = gzip.compress(upload(4 * MIB).SerializeToString())
        refused = it.send("RepositoryModelLoad", compressed)
        assert refused.code() is Code.RESOURCE_EXHAUSTED
        assert f"the limit is {40 * MIB}" in refused.details()
        assert retry_seconds(refused) > 0
        assert list(scratch.iterdir()) == []
        for call in waiting:
            call.cancel()
        eventually(lambda: it.held_bytes == before, "nothing is held for those who have gone")
        assert not it.slow.is_open
        assert it.slow.loads == 1


def test_invariant_4_loads_that_wait_are_bounded_and_hold_up_no_other_call(tmp_path: Path) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="slow")
    with loading(tmp_path) as it:
        waiting = [it.load(request) for _ in range(MOST_LOADS + 8)]
        eventually(lambda: sum(call.done() for call in waiting) == 9, "nine are refused")
        refused = [call for call in waiting if call.done()]
        assert {call.code() for call in refused} == {Code.RESOURCE_EXHAUSTED}
        assert "256 loads and unloads are being done, which is the limit" in refused[0].details()
        assert all(retry_seconds(call) > 0 for call in refused)
        (entry,) = it.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=PATIENCE_SECONDS).models
        assert entry.state == "LOADING"
        for call in waiting:
            call.cancel()

        def has_room() -> bool:
            call = it.stub.RepositoryModelUnload.future(pb.RepositoryModelUnloadRequest(model_name="none"))
            return bool(call.code() is Code.NOT_FOUND)

        eventually(has_room, "there is room again")
        assert not it.slow.is_open
    assert it.slow.loads == 1


SETTINGS = pb.TraceSettingRequest(settings={str(number): {} for number in range(10_000)}).SerializeToString()


@pytest.mark.parametrize("compressed", [False, True])
def test_invariant_4_a_message_larger_than_its_procedure_needs_is_refused_unread(
    tmp_path: Path, *, compressed: bool
) -> None:
    message = gzip.compress(SETTINGS) if compressed else SETTINGS
    with loading(tmp_path, allow_client_shm=True) as it:
        for procedure in SHORT:
            refused = it.send(procedure, message)
            assert refused.code() is Code.RESOURCE_EXHAUSTED, procedure
            assert "larger than max" in refused.details()
            assert "65536" in refused.details()


def test_invariant_4_a_load_of_more_fields_than_files_need_is_refused_unread(tmp_path: Path) -> None:
    request = pb.RepositoryModelLoadRequest(parameters={str(number): {} for number in range(20_000)})
    with loading(tmp_path) as it:
        refused = it.send("RepositoryModelLoad", request.SerializeToString())
        assert refused.code() is Code.INVALID_ARGUMENT
        assert refused.details() == "the message has more than 4096 fields"


def test_a_load_of_as_many_files_as_may_come_is_read(tmp_path: Path) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="new")
    request.parameters["config"].string_param = "{}"
    for number in range(256):
        request.parameters[f"file:1/{number}"].bytes_param = bytes(1024)
    with loading(tmp_path) as it:
        refused = it.send("RepositoryModelLoad", request.SerializeToString())
        assert refused.code() is Code.INVALID_ARGUMENT
        assert "model 'new' cannot be loaded" in refused.details()
