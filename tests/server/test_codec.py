"""The bytes of requests: what they say, and that any bytes whatsoever are read or refused."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace_proto.tensors import DTYPES, to_raw
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.errors import InvalidInput, NotSupported
from headrace_server.transport import codec

TYPED = [name for name in DTYPES if name not in ("BYTES", "FP16", "BF16")]


def message(**changes: Any) -> pb.ModelInferRequest:
    usual: dict[str, Any] = {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "inputs": [pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])],
        "raw_input_contents": [bytes(8)],
    }
    return pb.ModelInferRequest(**(usual | changes))


def typed(name: str = "x", kind: str = "FP32", shape: tuple[int, ...] = (2,), **contents: Any) -> Any:
    return pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=kind, shape=shape, contents=pb.InferTensorContents(**contents)
    )


def untyped(name: str = "x", kind: str = "FP32", shape: tuple[int, ...] = (2,)) -> Any:
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=kind, shape=shape)


def test_a_request_with_raw_contents() -> None:
    request = codec.decode(message(raw_input_contents=[b"12345678"]).SerializeToString())
    assert (request.model, request.version, request.id) == ("m", "1", "7")
    assert request.inputs == [("x", "FP32", (1, 2), b"12345678")]
    assert list(request.outputs) == []
    assert request.parameters == {}


def test_outputs_and_parameters_of_every_kind() -> None:
    parameters = {
        "b": pb.InferParameter(bool_param=False),
        "i": pb.InferParameter(int64_param=-1),
        "s": pb.InferParameter(string_param=""),
        "d": pb.InferParameter(double_param=0.5),
        "priority": pb.InferParameter(uint64_param=2**64 - 1),
    }
    outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in ("b", "a")]
    request = codec.decode(message(parameters=parameters, outputs=outputs).SerializeToString())
    assert request.outputs == ["b", "a"]
    assert request.parameters == {"b": False, "i": -1, "s": "", "d": 0.5, "priority": 2**64 - 1}


@pytest.mark.parametrize("kind", TYPED)
def test_typed_contents_become_the_same_bytes_as_raw_ones(kind: str) -> None:
    values = np.array([0, 1, 1]).astype(DTYPES[kind])
    field = {
        "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
        "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
        "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
        "FP64": "fp64_contents",
    }[kind]  # fmt: skip
    tensor = typed(kind=kind, shape=(3,), **{field: values.tolist()})
    (read,) = codec.decode(message(inputs=[tensor], raw_input_contents=[]).SerializeToString()).inputs
    assert read.data == values.tobytes()
    assert read.shape == (3,)


def test_typed_strings_are_read_and_raw_ones_left_as_they_are() -> None:
    elements = [b"one", b"", "drei€".encode()]
    array = np.empty(3, object)
    array[:] = elements
    raw = message(inputs=[untyped(kind="BYTES", shape=(3,))], raw_input_contents=[to_raw(array)])
    contents = message(
        inputs=[typed(kind="BYTES", shape=(3,), bytes_contents=elements)], raw_input_contents=[]
    )
    (as_raw,) = codec.decode(raw.SerializeToString()).inputs
    (as_typed,) = codec.decode(contents.SerializeToString()).inputs
    assert as_raw.data == to_raw(array)
    assert isinstance(as_typed.data, np.ndarray)
    assert as_typed.data.tolist() == elements


def test_typed_contents_that_are_empty_leave_the_place_to_raw_ones() -> None:
    inputs = [typed("a"), untyped("b")]
    assert inputs[0].HasField("contents")
    request = codec.decode(message(inputs=inputs, raw_input_contents=[b"1", b"2"]).SerializeToString())
    assert [(one.name, one.data) for one in request.inputs] == [("a", b"1"), ("b", b"2")]


def test_raw_contents_belong_to_inputs_in_their_order_and_more_are_ignored() -> None:
    inputs = [untyped("a"), untyped("b")]
    request = codec.decode(message(inputs=inputs, raw_input_contents=[b"1", b"2", b"3"]).SerializeToString())
    assert [(one.name, one.data) for one in request.inputs] == [("a", b"1"), ("b", b"2")]


SHARED = {
    "shared_memory_region": pb.InferParameter(string_param="r"),
    "shared_memory_byte_size": pb.InferParameter(int64_param=8),
}


def requested(name: str, **parameters: pb.InferParameter) -> Any:
    return pb.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=parameters)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        pytest.param(
            message(inputs=[typed(fp32_contents=[1, 2])]),
            InvalidInput,
            "input 'x' has typed contents and the request has raw_input_contents: one of the two is expected",
            id="both",
        ),
        pytest.param(
            message(inputs=[untyped("a"), typed("b", fp32_contents=[1])]), InvalidInput, "input 'b' has typed"
        ),
        pytest.param(
            message(raw_input_contents=[]),
            InvalidInput,
            "input 'x' has no data: 0 raw_input_contents came for 1 inputs",
            id="neither",
        ),
        pytest.param(
            message(inputs=[untyped("a"), untyped("b")]),
            InvalidInput,
            "input 'b' has no data: 1 raw_input_contents came for 2 inputs",
            id="too few",
        ),
        pytest.param(
            message(inputs=[typed(kind="FP16", fp32_contents=[1])], raw_input_contents=[]),
            InvalidInput,
            "input 'x': FP16 is raw only",
            id="FP16 typed",
        ),
        pytest.param(
            message(inputs=[typed(shape=(2, 3), fp32_contents=[1] * 5)], raw_input_contents=[]),
            InvalidInput,
            "input 'x': 5 values came in fp32_contents, the shape has 6",
            id="typed, and not of its shape",
        ),
        pytest.param(
            message(inputs=[typed(kind="BF16", fp32_contents=[1])], raw_input_contents=[]),
            InvalidInput,
            "input 'x': BF16 is raw only",
            id="BF16 typed",
        ),
        pytest.param(
            message(inputs=[typed(kind="INT64", fp32_contents=[1])], raw_input_contents=[]),
            InvalidInput,
            "contents of INT64 belong in int64_contents, got fp32_contents",
            id="the wrong field",
        ),
        pytest.param(
            message(inputs=[typed(kind="INT8", int_contents=[1, 128])], raw_input_contents=[]),
            InvalidInput,
            "input 'x': INT8 element 1 is 128, expected -128 to 127",
            id="out of range",
        ),
        pytest.param(
            message(inputs=[typed(kind="FLOAT", fp32_contents=[1])], raw_input_contents=[]),
            InvalidInput,
            "input 'x': unknown datatype 'FLOAT'",
            id="unknown datatype",
        ),
        pytest.param(
            message(inputs=[untyped(shape=(1,) * 65)]),
            InvalidInput,
            "input 'x': 65 dimensions came, at most 64 expected",
            id="dimensions",
        ),
        pytest.param(
            message(parameters={"p": pb.InferParameter()}), InvalidInput, "parameter 'p' has no value"
        ),
        pytest.param(
            message(parameters={"p": pb.InferParameter(uint64_param=1)}),
            InvalidInput,
            "parameter 'p' came as uint64_param; bool, int64, string or double expected",
            id="uint64",
        ),
        pytest.param(
            message(inputs=[untyped(name=str(n)) for n in range(4097)]),
            InvalidInput,
            "4097 inputs came, at most 4096 expected",
            id="inputs",
        ),
        pytest.param(
            message(outputs=[requested(str(n)) for n in range(4097)]),
            InvalidInput,
            "4097 outputs came, at most 4096 expected",
            id="outputs",
        ),
        pytest.param(
            message(parameters={str(n): pb.InferParameter(int64_param=1) for n in range(4097)}),
            InvalidInput,
            "4097 parameters came, at most 4096 expected",
            id="parameters",
        ),
        pytest.param(
            message(inputs=[pb.ModelInferRequest.InferInputTensor(name="x", parameters=SHARED)]),
            NotSupported,
            "start the server with --allow-client-shm",
            id="shared memory in",
        ),
        pytest.param(
            message(outputs=[requested("y", **SHARED)]),
            NotSupported,
            "start the server with --allow-client-shm",
            id="shared memory out",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(wrong: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        codec.decode(wrong.SerializeToString())


RICH = message(
    inputs=[untyped("a"), untyped("s", "BYTES", (1,)), untyped("b", "BOOL", (2,))],
    raw_input_contents=[bytes(8), b"\x02\0\0\0hi", b"\0\1"],
    outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="y")],
    parameters={"timeout": pb.InferParameter(int64_param=1)},
).SerializeToString()
CONTENTS = message(
    inputs=[typed("a", fp32_contents=[1, 2]), typed("s", "BYTES", (1,), bytes_contents=[b"hi"])],
    raw_input_contents=[],
).SerializeToString()


def read_or_refuse(data: bytes) -> None:
    """Let any other error than these two fail the test."""
    with contextlib.suppress(InvalidInput, NotSupported):
        codec.decode(data)


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x0a\xff\xff\xff\xff\x0f")
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refuse(data)


@settings(max_examples=300, deadline=None)
@given(
    valid=st.sampled_from([RICH, CONTENTS]),
    at=st.integers(0, 400),
    length=st.integers(0, 4),
    instead=st.binary(max_size=6),
)
def test_a_valid_message_with_bytes_exchanged_is_read_or_refused(
    valid: bytes, at: int, length: int, instead: bytes
) -> None:
    start = at % len(valid)
    read_or_refuse(valid[:start] + instead + valid[start + length :])


@settings(max_examples=200, deadline=None)
@given(
    kind=st.one_of(st.sampled_from(list(DTYPES)), st.text(max_size=5)),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=70),
    raw=st.lists(st.binary(max_size=20), max_size=3),
    field=st.sampled_from(["int_contents", "uint_contents", "bool_contents", "bytes_contents", ""]),
    count=st.integers(0, 3),
)
def test_tensors_of_any_kind_and_shape_are_read_or_refused(
    kind: str, shape: list[int], raw: list[bytes], field: str, count: int
) -> None:
    value: Any = b"x" if field == "bytes_contents" else 1
    contents = {field: [value] * count} if field else {}
    tensor = typed("x", kind, tuple(shape), **contents) if field else untyped("x", kind, tuple(shape))
    read_or_refuse(message(inputs=[tensor], raw_input_contents=raw).SerializeToString())
