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
    "ModelInfer": GOOD.SerializeToString(),
}
HONEST = {
    Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.ALREADY_EXISTS, Code.UNAVAILABLE,
    Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED,
}  # fmt: skip
"""What a request can be told that is wrong: the server itself is never at fault, nor out of reach."""

FEW = settings(max_examples=60, deadline=None)
HOW_MANY = pytest.mark.parametrize("examples", [60, pytest.param(500, marks=pytest.mark.slow)])
VARINT, FIXED64, LENGTH, GROUP, GROUP_END, FIXED32 = range(6)
NESTED = 12_000
"""Groups in groups: far more than a parser follows."""


@pytest.fixture(scope="module")
def wire(wire_to: Callable[[Server], Wire]) -> Wire:
    return wire_to(Server.FUZZED)


def check_alive(wire: Wire) -> None:
    outcome = wire.call("ModelInfer", GOOD)
    assert outcome.code is Code.OK, outcome.text
    same_tensors(outcome.answer, {"y": ("FP32", [[1, 2, 3]])})


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def tagged(number: int, kind: int, payload: bytes) -> bytes:
    return varint(number << 3 | kind) + payload


def delimited(payload: bytes, lie: int) -> bytes:
    """Return it with its length, or with one that is wrong by `lie`."""
    return varint(max(len(payload) + lie, 0)) + payload


NUMBERS = st.integers(1, 20) | st.sampled_from([0, 18_999, 2**29 - 1, 2**29, 2**40])
HUGE = st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1, 2**64, 2**70])
LIES = st.sampled_from([0, 0, 0, 1, -1, 100, 2**31, 2**64])
LEAVES = (
    st.builds(lambda number, value: tagged(number, VARINT, varint(value)), NUMBERS, st.integers(0, 99) | HUGE)
    | st.builds(
        lambda number, data: tagged(number, FIXED64, data), NUMBERS, st.binary(min_size=8, max_size=8)
    )
    | st.builds(
        lambda number, data: tagged(number, FIXED32, data), NUMBERS, st.binary(min_size=4, max_size=4)
    )
    | st.builds(
        lambda number, data, lie: tagged(number, LENGTH, delimited(data, lie)),
        NUMBERS,
        st.binary(max_size=30) | st.text(max_size=10).map(str.encode),
        LIES,
    )
    | st.builds(lambda number: tagged(number, GROUP_END, b""), NUMBERS)
)
FIELDS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(
            lambda number, parts, lie: tagged(number, LENGTH, delimited(b"".join(parts), lie)),
            NUMBERS,
            st.lists(inner, max_size=4),
            LIES,
        )
        | st.builds(
            lambda number, parts: tagged(number, GROUP, b"".join(parts)) + tagged(number, GROUP_END, b""),
            NUMBERS,
            st.lists(inner, max_size=4),
        )
    ),
    max_leaves=12,
)
"""Fields as no message declares them, one in another: huge numbers, lengths that lie, groups left open."""


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """A good message of which some parts were replaced, cut out, put in, or sent again."""
    message = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(message)))
        end = draw(st.integers(start, min(start + 8, len(message))))
        piece = st.binary(max_size=8) | FIELDS | st.just(seed)
        message[start:end] = draw(piece)
    return bytes(message)


def messages(seed: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes; fields alone, behind a good message or before it; and good messages cut or damaged."""
    fields = st.lists(FIELDS, max_size=5).map(b"".join)
    return (
        st.binary(max_size=200)
        | fields
        | fields.map(lambda more: seed + more)
        | fields.map(lambda more: more + seed)
        | st.integers(0, len(seed)).map(lambda end: seed[:end])
        | damaged(seed)
    )


@HOW_MANY
@pytest.mark.parametrize("method", SEEDS)
def test_any_bytes_get_an_answer_or_a_status(wire: Wire, method: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(messages(SEEDS[method]))
    def ask(message: bytes) -> None:
        outcome = wire.call(method, message)
        assert outcome.code in HONEST, (outcome.code, outcome.text)
        check_alive(wire)

    ask()


@pytest.mark.parametrize("method", SEEDS)
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(tagged(19, GROUP, b"") * NESTED, id="groups that never end"),
        pytest.param(
            tagged(19, GROUP, b"") * NESTED + tagged(19, GROUP_END, b"") * NESTED, id="groups in groups"
        ),
        pytest.param(tagged(19, VARINT, varint(1)) * 200_000, id="one unknown field again and again"),
        pytest.param(tagged(1, LENGTH, delimited(b"simple", 0)) * 100_000, id="one name again and again"),
        pytest.param(tagged(1, VARINT, b"\xff" * 100_000), id="a number without an end"),
    ],
)
def test_messages_made_to_be_hard_to_parse_get_an_answer_or_a_status(
    wire: Wire, method: str, message: bytes
) -> None:
    outcome = wire.call(method, message)
    assert outcome.code in HONEST, (outcome.code, outcome.text)
    check_alive(wire)


@HOW_MANY
def test_any_bytes_on_a_stream_cost_nobody_else_anything(wire: Wire, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(st.lists(messages(GOOD.SerializeToString()), max_size=6))
    def converse(parts: list[bytes]) -> None:
        outcome = wire.converse("ModelStreamInfer", [*parts, GOOD])
        assert outcome.code in HONEST, (outcome.code, outcome.text)
        if outcome.code is Code.OK:
            assert any(one.infer_response.id == "good" and not one.error_message for one in outcome.answers)
        check_alive(wire)

    converse()


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
