"""A server whose GPU is lost: who is answered what, what goes on, and how the process ends."""

from __future__ import annotations

import shutil
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hosted_server import connected, infer_request
from onnx_models import Models
from scripted_gpu import BREAK, HANG
from server_process import ServerProcess

from headrace_proto.v1 import inference_pb2 as pb

Code = grpc.StatusCode
PATIENCE_SECONDS = 20.0
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def repository(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that are on the GPU, and one that is not."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("gpu_a", "gpu_b", "cpu"):
        (folder / name / "1").mkdir(parents=True)
        shutil.copy(models.mlp(), folder / name / "1" / "model.onnx")
    return folder


def row(model: str, word: float = 0.0) -> pb.ModelInferRequest:
    return infer_request(model, ("x", "FP32", (1, 4), np.array([word, 0, 0, 0], np.float32).tobytes()))


@contextmanager
def serving(repository: Path, *flags: str) -> Iterator[tuple[ServerProcess, dict[str, Any]]]:
    with ServerProcess(repository, *flags, prelude="scripted_gpu") as server:
        yield server, server.ready()


def test_invariant_8_a_gpu_that_never_answers_is_told_and_the_process_ends_to_be_started_anew(
    repository: Path,
) -> None:
    with (
        serving(repository, "--gpu-watchdog-secs", "1", "--exit-timeout-secs", "60") as (server, ready),
        connected(ready["grpc"]) as stub,
        grpc.insecure_channel(ready["grpc"]) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == SERVING
        assert stub.ModelInfer(row("gpu_a")).outputs
        stuck = stub.ModelInfer.future(row("gpu_a", HANG))
        with pytest.raises(grpc.RpcError) as ended:
            stuck.result(PATIENCE_SECONDS)
        assert ended.value.code() is Code.UNAVAILABLE
        assert "has executed on GPU 0 for" in str(ended.value.details())
        assert next(watch).status == NOT_SERVING
        assert server.exit_code() == 75
    assert any("GPU 0 is taken for lost" in line for line in server.log)
    assert server.log[-1].endswith("stopped")


def test_models_on_the_cpu_are_served_on_where_that_is_asked_for(repository: Path) -> None:
    with (
        serving(repository, "--no-exit-on-gpu-loss", "--gpu-watchdog-secs", "1") as (server, ready),
        connected(ready["grpc"]) as stub,
        grpc.insecure_channel(ready["grpc"]) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="model:gpu_b"))
        assert next(watch).status == SERVING
        stuck = stub.ModelInfer.future(row("gpu_b", HANG))
        with pytest.raises(grpc.RpcError) as ended:
            stub.ModelInfer(row("gpu_a", BREAK))
        assert ended.value.code() is Code.UNAVAILABLE
        assert next(watch).status == NOT_SERVING, "it is on the same GPU"
        with pytest.raises(grpc.RpcError) as ended:
            stuck.result(PATIENCE_SECONDS)
        assert "fallen off the bus" in str(ended.value.details())
        assert stub.ModelInfer(row("cpu")).outputs
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        assert health.Check(health_pb2.HealthCheckRequest(service="")).status == SERVING
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0, "though a thread is stuck"


def test_a_server_without_models_on_the_cpu_ends_whatever_was_asked_for(
    repository: Path, tmp_path: Path
) -> None:
    shutil.copytree(repository / "gpu_a", tmp_path / "gpu_a")
    with (
        serving(tmp_path, "--no-exit-on-gpu-loss") as (server, ready),
        connected(ready["grpc"]) as stub,
    ):
        page = urllib.request.urlopen(f"http://{ready['metrics']}/metrics", timeout=PATIENCE_SECONDS).read()
        assert b"nv_gpu" not in page, "there is none"
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(row("gpu_a", BREAK))
        assert server.exit_code() == 75
