"""grpcurl, which knows nothing of the service but what the server tells of itself."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # it is fetched by `make clients`

PATIENCE_SECONDS = 60.0
SERVICES = ("inference.GRPCInferenceService", "headrace.v1.InferenceService")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(grpcurl: str, address: str) -> Run:
    def run(*arguments: str, **message: Any) -> subprocess.CompletedProcess[str]:
        data = ["-d", json.dumps(message)] if message else []
        command = [grpcurl, "-plaintext", "-format-error", *data, address, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)

    return run


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the messages that were printed one after the other."""
    assert done.returncode == 0, done.stderr
    decoder, rest, came = json.JSONDecoder(), done.stdout.lstrip(), []
    while rest:
        message, end = decoder.raw_decode(rest)
        came.append(message)
        rest = rest[end:].lstrip()
    return came


def test_services_are_listed(run: Run) -> None:
    assert {*SERVICES, "grpc.health.v1.Health"} <= set(run("list").stdout.split())


@pytest.mark.parametrize("service", SERVICES)
def test_procedures_and_messages_are_described(run: Run, service: str) -> None:
    assert "ModelStreamInfer" in run("list", service).stdout
    package = service.rpartition(".")[0]
    described = run("describe", f"{package}.ModelInferRequest").stdout
    assert "repeated bytes raw_input_contents = 7;" in described


@pytest.mark.parametrize("service", SERVICES)
def test_an_inference(run: Run, service: str) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 3], "contents": {"fp32_contents": [1, 2, 3]}}]
    (answer,) = answers(run(f"{service}/ModelInfer", model_name="identity_FP32", inputs=inputs))
    assert base64.b64decode(answer["raw_output_contents"][0]) == b"\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40"


def test_a_stream(run: Run) -> None:
    inputs = [{"name": "x", "datatype": "INT32", "shape": [3], "contents": {"int_contents": [3, 5, 8]}}]
    came = answers(run(f"{SERVICES[0]}/ModelStreamInfer", model_name="repeat", inputs=inputs))
    contents = [base64.b64decode(one["infer_response"]["raw_output_contents"][0]) for one in came]
    assert [int.from_bytes(one, "little") for one in contents] == [3, 5, 8]


def test_an_error(run: Run) -> None:
    done = run(f"{SERVICES[0]}/ModelMetadata", name="simpel")
    assert done.returncode != 0
    assert "did you mean 'simple'?" in json.loads(done.stderr)["message"]


def test_health(run: Run) -> None:
    assert answers(run("grpc.health.v1.Health/Check", service="model:simple")) == [{"status": "SERVING"}]
