"""Whatever bytes come, there is an answer or a status, and the next good request is answered.

And whatever tensor a model takes comes back bit for bit from one that changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oip.build import TYPED_FIELDS, Given, infer, raw, same_tensors, typed
from oip.case import Code, Server
from oip.rows.service_names import PROCEDURES
from oip.wire import Wire

from headrace_proto.tensors import DTYPES, to_raw
from headrace_proto.v1 import inference_pb2 as pb

GOOD = infer("identity_FP32", raw("x", "FP32", [[1, 2, 3]]), id="good")
SEEDS = {name: request.SerializeToString() for name, request in PROCEDURES.items()} | {
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(
        name="r", key="/none", byte_size=8
    ).SerializeToString(),
    "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(
        name="r", raw_handle=b"handle", byte_size=8
    ).SerializeToString(),
    "CudaSharedMemoryStatus": b"",
    "CudaSharedMemoryUnregister": b"",
    "ModelInfer": GOOD.SerializeToString(),
}
HONEST = {
    Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.ALREADY_EXISTS, Code.UNAVAILABLE,
    Code.FAILED_PRECONDITION,
}  # fmt: skip
"""What a request can be told that is wrong: the server itself is never at fault, nor out of reach."""

FEW = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def wire(wire_to: Callable[[Server], Wire]) -> Wire:
    return wire_to(Server.FUZZED)


def check_alive(wire: Wire) -> None:
    outcome = wire.call("ModelInfer", GOOD)
    assert outcome.code is Code.OK, outcome.text
    same_tensors(outcome.answer, {"y": ("FP32", [[1, 2, 3]])})


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """A good message of which some parts were replaced, cut out, or put in."""
    message = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(message)))
        end = draw(st.integers(start, min(start + 8, len(message))))
        message[start:end] = draw(st.binary(max_size=8))
    return bytes(message)


def messages(seed: bytes) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=200) | damaged(seed)


@pytest.mark.parametrize("method", SEEDS)
def test_any_bytes_get_an_answer_or_a_status(wire: Wire, method: str) -> None:
    @FEW
    @given(messages(SEEDS[method]))
    def ask(message: bytes) -> None:
        outcome = wire.call(method, message)
        assert outcome.code in HONEST, (outcome.code, outcome.text)

    ask()
    check_alive(wire)


@FEW
@given(parts=st.lists(messages(GOOD.SerializeToString()), max_size=6))
def test_any_bytes_on_a_stream_cost_nobody_else_anything(wire: Wire, parts: list[bytes]) -> None:
    outcome = wire.converse("ModelStreamInfer", [*parts, GOOD])
    assert outcome.code in HONEST, (outcome.code, outcome.text)
    if outcome.code is Code.OK:
        assert any(one.infer_response.id == "good" and not one.error_message for one in outcome.answers)
    check_alive(wire)


@st.composite
def tensors(draw: st.DrawFn, datatype: str) -> np.ndarray[Any, Any]:
    """Any rows of any two dimensions, with any bits that the datatype has."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(0, 4), st.integers(0, 4)))
    count = math.prod(shape)
    if datatype == "BYTES":
        words = st.lists(st.text(max_size=40).map(str.encode), min_size=count, max_size=count)
        array = np.empty(count, object)
        array[:] = draw(words)
        return array.reshape(shape)
    dtype = DTYPES[datatype]
    size = count * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if datatype == "BOOL":
        content = bytes(byte & 1 for byte in content)
    return np.frombuffer(content, dtype).reshape(shape)


def check_round_trip(wire: Wire, tensor: Given, rows: np.ndarray[Any, Any]) -> None:
    """Send it in a call and in a stream; both answers have its bits."""
    request = infer(f"shaped_{tensor.datatype}", tensor)
    unary = wire.call("ModelInfer", request)
    assert unary.code is Code.OK, unary.text
    streamed = wire.converse("ModelStreamInfer", [request])
    for answer in (unary.answer, streamed.answer.infer_response):
        (output,) = answer.outputs
        assert (output.datatype, tuple(output.shape)) == (tensor.datatype, rows.shape)
        assert list(answer.raw_output_contents) == [to_raw(rows)]


@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_tensors_make_the_round_trip(wire: Wire, datatype: str) -> None:
    @FEW
    @given(tensors(datatype))
    def send(rows: np.ndarray[Any, Any]) -> None:
        check_round_trip(wire, Given("x", datatype, rows.shape, to_raw(rows)), rows)

    send()


@pytest.mark.parametrize("datatype", TYPED_FIELDS)
def test_typed_tensors_make_the_round_trip(wire: Wire, datatype: str) -> None:
    @FEW
    @given(tensors(datatype))
    def send(rows: np.ndarray[Any, Any]) -> None:
        if rows.dtype.kind == "f":  # Python's floats do not keep every bit of a NaN
            rows = np.where(np.isnan(rows), rows.dtype.type(0), rows)
        check_round_trip(wire, typed("x", datatype, rows), rows)

    send()
