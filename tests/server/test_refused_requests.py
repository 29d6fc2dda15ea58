"""Requests that are wrong, or fail: each is told why, and the next good one is answered."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from hosted_server import infer_request
from refusals import refusal

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

Code = grpc.StatusCode
ROW = np.arange(4, dtype=np.float32).tobytes()
GOOD = infer_request("mlp", ("x", "FP32", (1, 4), ROW))


def bad(*tensors: Any, **options: Any) -> pb.ModelInferRequest:
    return infer_request("mlp", *tensors, **options)


def with_both() -> pb.ModelInferRequest:
    request = bad(("x", "FP32", (1, 4), ROW))
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    return request


def without_contents() -> pb.ModelInferRequest:
    request = bad(("x", "FP32", (1, 4), ROW))
    request.ClearField("raw_input_contents")
    return request


X = ("x", "FP32", (1, 4), ROW)
EMBEDDED = ("x", "FP32", (1, 3), bytes(12))
BAD_INPUT = {
    "wrong input name": (bad(("w", "FP32", (1, 4), ROW)), "has no input 'w'; it takes 'x'"),
    "missing input": (bad(), "needs input 'x', which did not come"),
    "extra input": (bad(X, ("w", "FP32", (1,), bytes(4))), "has no input 'w'"),
    "duplicate input": (bad(X, X), "input 'x' came twice"),
    "wrong datatype": (bad(("x", "INT32", (1, 4), ROW)), "datatype 'INT32' came, 'FP32' expected"),
    "wrong rank": (bad(("x", "FP32", (4,), ROW)), "shape [4] came, [batch, 4] expected"),
    "wrong dimension": (bad(("x", "FP32", (1, 5), bytes(20))), "shape [1, 5] came, [batch, 4] expected"),
    "negative dimension": (bad(("x", "FP32", (-1, 4), ROW)), "batch of -1 rows came"),
    "too few bytes": (bad(("x", "FP32", (1, 4), bytes(12))), "12 bytes came, shape [1, 4] of FP32 needs 16"),
    "too many bytes": (bad(("x", "FP32", (1, 4), bytes(20))), "20 bytes came"),
    "overflowing batch": (bad(("x", "FP32", (2**62, 4), b"")), f"batch of {2**62} rows came"),
    "overflowing dimension": (
        infer_request("ragged", ("x", "FP32", (4, 2**62), b"")), f"0 bytes came, shape [4, {2**62}]"
    ),
    "empty batch": (bad(("x", "FP32", (0, 4), b"")), "batch of 0 rows came, model 'mlp' takes 1 to 8"),
    "batch too large": (bad(("x", "FP32", (9, 4), bytes(144))), "batch of 9 rows came"),
    "both contents": (with_both(), "one of the two is expected"),
    "no contents": (without_contents(), "input 'x' has no data"),
    "unknown output": (bad(X, outputs=("z",)), "has no output 'z'; it has 'y'"),
    "unequal rows": (
        infer_request("embedding", EMBEDDED, ("word", "INT64", (2,), bytes(16))), "input 'word' has 2 rows"
    ),
    "bad BOOL": (infer_request("identity_BOOL", ("x", "BOOL", (1, 3), b"\0\1\2")), "a BOOL is a byte 0 or 1"),
    "bad BYTES": (infer_request("identity_BYTES", ("x", "BYTES", (1, 3), b"\1\0\0\0")), "element 0 is cut"),
    "bad timeout": (bad(X, timeout=-1), "parameter 'timeout': -1 came"),
    "reserved parameter": (bad(X, triton_x=1), "names that begin with 'triton_' are reserved"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_refused_with_a_reason_and_a_good_request_works_right_after(
    stub: InferenceServiceStub, name: str
) -> None:
    request, expected = BAD_INPUT[name]
    code, text = refusal(stub.ModelInfer, request)
    assert code is Code.INVALID_ARGUMENT
    assert expected in text
    assert stub.ModelInfer(GOOD).raw_output_contents


NO_SHARED_MEMORY = "shared memory of clients is not allowed: start the server with --allow-client-shm"


def with_feature(where: str, key: str) -> pb.ModelInferRequest:
    request = bad(X, outputs=("y",))
    getattr(request, where)[0].parameters[key].int64_param = 1
    return request


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (bad(X, sequence_id=5), "sequences (parameter sequence_id) are not supported by model 'mlp'"),
        (with_feature("outputs", "shared_memory_region"), NO_SHARED_MEMORY),
        (with_feature("inputs", "shared_memory_region"), NO_SHARED_MEMORY),
    ],
    ids=["sequence", "shared memory out", "shared memory in"],
)
def test_features_that_are_not_there_are_named(
    stub: InferenceServiceStub, asked: pb.ModelInferRequest, text: str
) -> None:
    assert refusal(stub.ModelInfer, asked) == (Code.UNIMPLEMENTED, text)


def test_a_message_that_is_too_large_is_refused_and_the_connection_lives(stub: InferenceServiceStub) -> None:
    code, text = refusal(stub.ModelInfer, bad(("x", "FP32", (1, 4), bytes(2 << 20))))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "1048576" in text
    assert stub.ModelInfer(GOOD).raw_output_contents


@pytest.mark.parametrize("length", [1_000, 10_000, 500_000])
@pytest.mark.parametrize("where", ["model", "input", "output", "version", "shape", "parameter"])
def test_however_long_a_wrong_name_is_its_code_arrives(
    stub: InferenceServiceStub, where: str, length: int
) -> None:
    name = "ü" * length
    requests = {
        "model": infer_request(name, X),
        "version": bad(X, version=name),
        "input": bad((name, "FP32", (1, 4), ROW)),
        "output": bad(X, outputs=(name,)),
        "shape": bad(("x", "FP32", (2**60,) * (length // 10), ROW)),
        "parameter": bad(X, **{"triton_" + name: 1}),
    }
    code, text = refusal(stub.ModelInfer, requests[where])
    assert code is (Code.NOT_FOUND if where == "model" else Code.INVALID_ARGUMENT), text[:200]
    assert stub.ModelInfer(GOOD).raw_output_contents


def test_an_engine_that_fails_answers_with_an_id_and_works_on(stub: InferenceServiceStub) -> None:
    def ask(word: int) -> Any:
        data = np.array([word]).tobytes()
        return stub.ModelInfer(infer_request("embedding", EMBEDDED, ("word", "INT64", (1,), data)))

    code, text = refusal(lambda **_: ask(99))
    assert code is Code.INTERNAL
    assert "(error " in text
    assert ask(3).outputs[1].name == "label"
