"""Answers are read as protobuf reads them, in whatever order and shape their fields come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.answers import decode_response
from headrace.errors import RequestFailed
from headrace.messages import decode_stream_answer
from headrace.retry import Failure
from headrace_proto import tensors
from headrace_proto.v1 import inference_pb2 as pb

Arrays = dict[str, np.ndarray[Any, Any]]

NAMES = st.sampled_from(["y", "z", "", "é"])
DATATYPES = st.sampled_from([*tensors.DTYPES, "", "FP33"])
SIZES = st.integers(0, 3) | st.sampled_from([-1, 1 << 40, (1 << 63) - 1, -(1 << 63)])
SHAPES = st.lists(SIZES, max_size=3) | st.just([1] * 65) | st.lists(st.just(0), max_size=3)
CONTENTS = st.sampled_from(
    [
        pb.InferTensorContents(),
        pb.InferTensorContents(fp32_contents=[1.5, -2.0]),
        pb.InferTensorContents(int_contents=[1, 300]),
        pb.InferTensorContents(bool_contents=[True]),
        pb.InferTensorContents(bytes_contents=[b"", b"ab"]),
        pb.InferTensorContents(uint_contents=[7], bool_contents=[True]),
    ]
)


def varint(value: int, spare: int = 0) -> bytes:
    """Return a number as protobuf writes it, in more bytes than it needs."""
    groups = bytearray()
    while True:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
        if not value:
            break
    groups += b"\x80" * spare
    groups[-1] &= 0x7F
    return bytes(groups)


def field(number: int, content: bytes, spare: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(content), spare) + content


@st.composite
def outputs(draw: st.DrawFn) -> bytes:
    """An output whose shape came packed, one by one, or both."""
    parts = [
        field(1, draw(NAMES).encode()),
        field(2, draw(DATATYPES).encode()),
        *(b"\x18" + varint(size % (1 << 64)) for size in draw(SHAPES)[:2]),
        field(3, b"".join(varint(size % (1 << 64)) for size in draw(SHAPES))),
    ]
    parts += [field(5, contents.SerializeToString()) for contents in draw(st.lists(CONTENTS, max_size=2))]
    return field(5, b"".join(draw(st.permutations(parts))))


@st.composite
def consistent(draw: st.DrawFn) -> bytes:
    """An output and its tensor, as servers send them."""
    datatype = draw(st.sampled_from([*tensors.DTYPES]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = tensors.DTYPES[datatype]
    count = math.prod(shape)
    width = 5 if dtype.hasobject else dtype.itemsize
    raw = b"\x01\0\0\0a" * count if dtype.hasobject else bytes(number % 2 for number in range(count * width))
    output = pb.ModelInferResponse.InferOutputTensor(name=draw(NAMES), datatype=datatype, shape=shape)
    return field(5, output.SerializeToString()) + field(6, raw)


def parameter(name: str, **value: Any) -> bytes:
    response = pb.ModelInferResponse(parameters={name: pb.InferParameter(**value)})
    return response.SerializeToString()


FIELDS = st.one_of(
    consistent(),
    outputs(),
    st.binary(max_size=8).map(lambda raw: field(6, raw)),
    st.sampled_from(["", "7", "é", "x" * 200]).map(lambda text: field(3, text.encode(), spare=1)),
    st.sampled_from(["", "m", "long" * 50]).map(lambda text: field(1, text.encode())),
    st.sampled_from(
        [
            parameter("triton_final_response", bool_param=True),
            parameter("triton_final_response", bool_param=False),
            parameter("error_code", string_param="NOT_FOUND"),
            parameter("other", double_param=0.5),
            field(4, b""),
            field(3, b"\xff"),  # no text
            field(1, b"\xff"),
            b"\x8a\x00\x01m",  # a known tag in more bytes than it needs
            b"\x18\x05",  # a known field as a number
            b"\x38\x05",  # fields that the protocol does not have
            b"\xfa\x01\x01a",
            b"\x39" + bytes(8),
            b"\x3d" + bytes(4),
            b"\x3b\x08\x01\x3c",  # a group, and one that does not end
            b"\x3b",
        ]
    ),
)
MESSAGES = st.lists(FIELDS, max_size=6).map(b"".join)


def expected(response: pb.ModelInferResponse) -> Arrays | None:
    """Return what the outputs of an answer are; None if they contradict what it says of them."""
    raws = iter(response.raw_output_contents)
    arrays: Arrays = {}
    try:
        for output in response.outputs:
            if output.HasField("contents"):
                values = tensors.from_contents(output.contents, output.datatype, math.prod(output.shape))
                arrays[output.name] = values.reshape(tuple(output.shape))
            else:
                arrays[output.name] = tensors.from_raw(next(raws), output.datatype, tuple(output.shape))
    except (ValueError, StopIteration):
        return None
    return arrays


def assert_same(found: Arrays, right: Arrays) -> None:
    assert list(found) == list(right)
    for name, array in right.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes() or found[name].tolist() == array.tolist()


def assert_read_as_protobuf_does(message: bytes) -> None:
    try:
        right = expected(pb.ModelInferResponse.FromString(message))
    except DecodeError:
        right = None
    try:
        found = decode_response(message)
    except RequestFailed:
        assert right is None
    else:
        assert right is not None
        assert_same(found, right)


@given(MESSAGES)
@example(field(3, b"\xff") + field(3, b""))
@example(field(3, b"\xff") + field(3, b"7"))
def test_an_answer_is_read_as_protobuf_reads_it(message: bytes) -> None:
    assert_read_as_protobuf_does(message)


@given(MESSAGES, st.data())
def test_so_is_one_that_was_cut_or_changed(message: bytes, data: Any) -> None:
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    assert_read_as_protobuf_does(bytes(changed[: data.draw(st.integers(0, len(changed)))]))


@given(
    st.lists(st.builds(field, st.just(2), MESSAGES, st.integers(0, 2)) | MESSAGES, max_size=2).map(b"".join)
    | MESSAGES.map(lambda message: field(2, message)),
    st.sampled_from([b"", b"\x0a\x00", b"\x0a\x03why", b"\x18\x01"]),
    st.booleans(),
    st.integers(0, 5),
)
@example(b"\x12\x80", b"", False, 0)
@example(b"\x12" + b"\xff" * 11, b"", False, 0)
def test_an_answer_of_a_stream_is_read_as_protobuf_reads_it(
    message: bytes, beside: bytes, is_first: bool, cut: int
) -> None:
    message = beside + message if is_first else message + beside
    message = message[: len(message) - cut]
    found = decode_stream_answer(message)
    try:
        response = pb.ModelStreamInferResponse.FromString(message)
    except DecodeError:
        assert isinstance(found.result, Failure)
        assert not found.id
        return
    answer = response.infer_response
    final = answer.parameters.get("triton_final_response")
    assert found.id == answer.id
    assert found.is_last is (final is None or final.bool_param)
    code = answer.parameters.get("error_code")
    if response.error_message or (not answer.outputs and code is not None and code.string_param):
        assert isinstance(found.result, Failure)
    elif final is not None and final.bool_param and not answer.outputs:
        assert found.result is None
    elif (right := expected(answer)) is None:
        assert isinstance(found.result, RequestFailed)
    else:
        assert isinstance(found.result, dict)
        assert_same(found.result, right)
