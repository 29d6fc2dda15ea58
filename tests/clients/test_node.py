"""gRPC's client for Node.js, with stubs that are made at run time: from the .proto, and by reflection."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from hosted_server import infer_request

from headrace_proto.v1 import inference_pb2 as pb

pytestmark = pytest.mark.slow  # a second each, and the packages are installed by `make clients`

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "clients" / "node"
PATIENCE_SECONDS = 60.0
HEALTH = "grpc.health.v1.Health"
FOUR = ("x", "INT32", (4,), b"".join(number.to_bytes(4, "little") for number in (3, 5, 8, 13)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call."""

    code: str
    details: str
    status: Status
    answers: list[Any]


Ask = Callable[..., list[Outcome]]


@pytest.fixture(
    params=[
        (("proto", str(ROOT / "proto")), "headrace.v1.InferenceService"),
        (("reflection", "v1"), "inference.GRPCInferenceService"),
        (("reflection", "v1alpha"), "headrace.v1.InferenceService"),
    ],
    ids=["proto", "reflection v1", "reflection v1alpha"],
)
def ask(request: pytest.FixtureRequest, address: str) -> Ask:
    """Put a call, or several copies at once; `options` are those of ask.js."""
    node = shutil.which("node")
    if not node or not (PROJECT / "node_modules" / ".package-lock.json").exists():
        pytest.skip("Node.js or its packages are not there; `make clients` installs the packages")
    source, inference = request.param

    def ask(method: str, answer: type[Message], *requests: Message, **options: Any) -> list[Outcome]:
        messages = [MessageToDict(one, preserving_proto_field_name=True) for one in requests]
        if source[0] == "reflection":
            messages = [_with_entries(one) for one in messages]
        call = {"service": inference, "method": method, "requests": messages, **options}
        done = subprocess.run(
            [node, "ask.js", address, *source],
            input=json.dumps([call]), cwd=PROJECT, capture_output=True, text=True, check=False,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (copies,) = json.loads(done.stdout)
        return [_outcome(one, answer) for one in copies]

    return ask


def _outcome(one: dict[str, Any], answer: type[Message]) -> Outcome:
    status = Status.FromString(b"".join(map(base64.b64decode, one["status_details"])))
    answers = [ParseDict(_without_entries(came), answer()) for came in one["answers"]]
    return Outcome(one["code"], one["details"], status, answers)


def _with_entries(value: Any) -> Any:
    """Write maps as their entries, which is what the package makes of a map that reflection tells of."""
    if not isinstance(value, dict):
        return value
    return {
        name: [{"key": key, "value": value} for key, value in one.items()]
        if name == "parameters"
        else _with_entries(one)
        for name, one in value.items()
    }


def _without_entries(value: Any) -> Any:
    """Write entries as the maps that they are."""
    if not isinstance(value, dict):
        return value
    return {
        name: {entry["key"]: entry["value"] for entry in one}
        if name == "parameters" and isinstance(one, list)
        else _without_entries(one)
        for name, one in value.items()
    }


def sole(outcomes: list[Outcome], code: str = "OK") -> Outcome:
    (outcome,) = outcomes
    assert outcome.code == code, outcome
    return outcome


def test_metadata(ask: Ask) -> None:
    (answer,) = sole(
        ask("ModelMetadata", pb.ModelMetadataResponse, pb.ModelMetadataRequest(name="simple"))
    ).answers
    assert [(one.name, list(one.shape)) for one in answer.inputs] == [
        ("INPUT0", [-1, 16]),
        ("INPUT1", [-1, 16]),
    ]


def test_raw_contents(ask: Ask) -> None:
    row = bytes(range(12))
    request = infer_request("identity_FP32", ("x", "FP32", (1, 3), row), id="7", timeout=9_000_000)
    (answer,) = sole(ask("ModelInfer", pb.ModelInferResponse, request)).answers
    assert (answer.id, list(answer.raw_output_contents)) == ("7", [row])


def test_typed_contents(ask: Ask) -> None:
    largest = 2**63 - 1
    request = infer_request("identity_INT64")
    tensor = request.inputs.add(name="x", datatype="INT64", shape=[1, 3])
    tensor.contents.int64_contents.extend([-largest - 1, 0, largest])
    (answer,) = sole(ask("ModelInfer", pb.ModelInferResponse, request)).answers
    numbers = (-largest - 1, 0, largest)
    assert answer.raw_output_contents[0] == b"".join(
        one.to_bytes(8, "little", signed=True) for one in numbers
    )


def test_many_calls_at_once(ask: Ask) -> None:
    request = infer_request("identity_FP32", ("x", "FP32", (1, 3), bytes(12)))
    outcomes = ask("ModelInfer", pb.ModelInferResponse, request, copies=100)
    assert {one.code for one in outcomes} == {"OK"}
    assert {one.answers[0].raw_output_contents[0] for one in outcomes} == {bytes(12)}


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (infer_request("simpel"), "NOT_FOUND", "there is no model 'simpel'; did you mean 'simple'?"),
        (infer_request("simple", ("x", "FP32", (1, 3), bytes(12))), "INVALID_ARGUMENT", "'x'"),
        (infer_request("never_asked"), "UNAVAILABLE", "'never_asked'"),
        (infer_request("repeat", FOUR), "UNIMPLEMENTED", "ModelStreamInfer"),
    ],
    ids=["not there", "bad input", "not loaded", "decoupled"],
)
def test_errors(ask: Ask, request_: pb.ModelInferRequest, code: str, details: str) -> None:
    outcome = sole(ask("ModelInfer", pb.ModelInferResponse, request_), code)
    assert details in outcome.details


def test_an_overload_says_when_to_try_again(ask: Ask) -> None:
    slow = infer_request("slow", ("x", "INT32", (1, 1), (200).to_bytes(4, "little")))
    outcomes = ask("ModelInfer", pb.ModelInferResponse, slow, copies=8)
    refused = [one for one in outcomes if one.code != "OK"]
    assert 0 < len(refused) < 8
    for one in refused:
        assert one.code == "RESOURCE_EXHAUSTED"
        retry = RetryInfo()
        assert one.status.message == one.details
        assert one.status.details[0].Unpack(retry)
        assert retry.retry_delay.ToNanoseconds() > 0


def test_a_deadline(ask: Ask) -> None:
    slow = infer_request("sleeper", ("x", "INT32", (1, 1), (500).to_bytes(4, "little")))
    sole(ask("ModelInfer", pb.ModelInferResponse, slow, deadline_ms=100), "DEADLINE_EXCEEDED")


def test_a_stream_of_answers_and_errors(ask: Ask) -> None:
    good = infer_request("identity_FP32", ("x", "FP32", (1, 3), bytes(12)), id="good")
    answers = sole(
        ask("ModelStreamInfer", pb.ModelStreamInferResponse, good, infer_request("simpel"), good)
    ).answers
    assert sorted(one.infer_response.id for one in answers) == ["", "good", "good"]
    (error,) = [one.error_message for one in answers if one.error_message]
    assert "there is no model 'simpel'" in error


def test_a_decoupled_model(ask: Ask) -> None:
    request = infer_request("repeat", FOUR, triton_enable_empty_final_response=True)
    answers = sole(ask("ModelStreamInfer", pb.ModelStreamInferResponse, request)).answers
    came = [int.from_bytes(one.infer_response.raw_output_contents[0], "little") for one in answers[:-1]]
    assert came == [3, 5, 8, 13]
    assert answers[-1].infer_response.parameters["triton_final_response"].bool_param


def test_a_stream_that_is_left(ask: Ask) -> None:
    good = infer_request("identity_FP32", ("x", "FP32", (1, 3), bytes(12)))
    outcome = sole(ask("ModelStreamInfer", pb.ModelStreamInferResponse, good, cancel=True), "CANCELLED")
    assert len(outcome.answers) == 1


@pytest.mark.parametrize("name", ["", "model:simple", "inference.GRPCInferenceService"])
def test_health(ask: Ask, name: str) -> None:
    asked = health_pb2.HealthCheckRequest(service=name)
    (answer,) = sole(ask("Check", health_pb2.HealthCheckResponse, asked, service=HEALTH)).answers
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_nobody(ask: Ask) -> None:
    asked = health_pb2.HealthCheckRequest(service="model:simpel")
    sole(ask("Check", health_pb2.HealthCheckResponse, asked, service=HEALTH), "NOT_FOUND")


def test_health_is_watched(ask: Ask) -> None:
    asked = health_pb2.HealthCheckRequest(service="model:simple")
    watched = ask("Watch", health_pb2.HealthCheckResponse, asked, service=HEALTH, cancel=True)
    (answer,) = sole(watched, "CANCELLED").answers
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
