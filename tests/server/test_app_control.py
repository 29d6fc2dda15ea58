"""Health follows the models that come and go while the process runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hosted_server import connected, infer_request
from model_folders import place, put
from onnx_models import Models
from server_process import ServerProcess

from headrace_proto.v1 import inference_pb2 as pb

Status = health_pb2.HealthCheckResponse
PATIENCE_SECONDS = 20.0


def watched(channel: grpc.Channel, name: str) -> Iterator[str]:
    """Yield the states of a name as they change."""
    request = health_pb2.HealthCheckRequest(service=name)
    for told in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=PATIENCE_SECONDS):
        yield Status.ServingStatus.Name(told.status)


def await_state(states: Iterator[str], expected: str) -> None:
    """Wait for a state, past those on the way to it."""
    assert any(state == expected for state in states)


def test_a_polling_server_starts_with_nothing_and_tells_of_what_comes_and_goes(
    tmp_path: Path, models: Models
) -> None:
    flags = ("--model-control-mode", "poll", "--repository-poll-secs", "0.1")
    with ServerProcess(tmp_path, *flags) as server:
        address = server.ready()["grpc"]
        with grpc.insecure_channel(address) as channel, connected(address) as stub:
            assert stub.ServerReady(pb.ServerReadyRequest()).ready, "an empty repository is as it should be"
            states = watched(channel, "model:m")
            assert next(states) == "SERVICE_UNKNOWN"
            place(tmp_path, "m", models.adding(1))
            await_state(states, "SERVING")
            row = infer_request("m", ("x", "FP32", (1, 3), bytes(12)))
            assert stub.ModelInfer(row).model_version == "1"
            shutil.rmtree(tmp_path / "m")
            await_state(states, "NOT_SERVING")
            put(tmp_path, "m", b"no model", 2)
            server.await_log("model m version 2 is not served")
            put(tmp_path, "m", models.adding(3), 2)
            await_state(states, "SERVING")
            assert stub.ModelInfer(row).model_version == "2"


def test_a_model_that_is_unloaded_takes_the_server_out_of_nobodys_service(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1))
    flags = ("--model-control-mode", "explicit", "--load-model", "m")
    with ServerProcess(tmp_path, *flags) as server:
        address = server.ready()["grpc"]
        with grpc.insecure_channel(address) as channel, connected(address) as stub:
            states = watched(channel, "model:m:1")
            assert next(states) == "SERVING"
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m"))
            await_state(states, "NOT_SERVING")
            assert next(watched(channel, "")) == "SERVING"
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"))
            await_state(states, "SERVING")
