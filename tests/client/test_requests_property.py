"""Requests are what protobuf would write, whatever is sent and whatever was sent before."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

from headrace import requests
from headrace.requests import RequestEncoder, encode_own
from headrace.stream_requests import Encoder, Request
from headrace_proto.v1 import inference_pb2 as pb

Array = np.ndarray[Any, Any]

BF16 = np.dtype(ml_dtypes.bfloat16)
DATATYPES = {
    "bool": "BOOL",
    **{f"{kind}int{bits}": f"{kind}int{bits}".upper() for kind in ("u", "") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
SHAPES = extra.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NAMES = st.sampled_from(["x", "y", "é", "", "n" * 300])
LAYOUTS: list[Callable[[Array], Array]] = [
    lambda array: array,
    lambda array: array.T,
    lambda array: array[..., ::-1] if array.ndim else array,
    lambda array: array[::2] if array.ndim else array,
    lambda array: np.broadcast_to(array, (2, *array.shape)),
    np.asfortranarray,
    lambda array: array.view(np.memmap) if array.dtype != object else array,
]
STRINGS = st.sampled_from(["", "é", "a" * 300, b"", b"\xff\0", b"b" * 70_000])


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Array]:
    """An array in some layout and byte order, and the datatype that it is sent as."""
    shape = draw(SHAPES)
    layout = draw(st.sampled_from(LAYOUTS))
    name = draw(st.sampled_from([*DATATYPES, "bfloat16", "object", "str", "bytes"]))
    if name == "object":
        array = np.empty(shape, object)
        for index in np.ndindex(shape):
            array[index] = draw(STRINGS)
        return "BYTES", layout(array)
    if name in ("str", "bytes"):
        order = draw(st.sampled_from("<>"))
        values = np.array(draw(st.lists(st.text("aé", max_size=3), max_size=3)), f"{order}U3")
        return "BYTES", layout(values if name == "str" else np.char.encode(values, "utf-8"))
    octets = np.arange(int(np.prod(shape)) * np.dtype(name).itemsize, dtype=np.uint8)
    array = (octets % 2 if name == "bool" else octets).view(name).reshape(shape)
    if draw(st.booleans()):
        array = array.astype(array.dtype.newbyteorder(">"))
    return DATATYPES.get(name, "BF16"), layout(array)


def raw_of(array: Array) -> bytes:
    if array.dtype.kind in "OUS":
        elements = [s.encode() if isinstance(s, str) else s for s in array.ravel().tolist()]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return b"".join(
        array[index].tobytes() for index in np.ndindex(array.shape)
    )  # little-endian, as scalars are


PARAMETERS = st.dictionaries(
    st.sampled_from(["p", "é", "priority", ""]),
    st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    max_size=3,
)
OUTPUTS = (
    st.none()
    | st.lists(NAMES, max_size=2, unique=True)
    | st.dictionaries(NAMES, st.integers(0, 3), max_size=2)
)
IDS = st.sampled_from(["", "7", "é", "i" * 100_000])


def set_parameters(into: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        kind = {bool: "bool_param", float: "double_param", str: "string_param", int: "int64_param"}[
            type(value)
        ]
        setattr(into[name], "uint64_param" if kind == "int64_param" and value >= 1 << 63 else kind, value)


ENCODER = RequestEncoder()
"""One for all examples, so that each finds what others left behind."""


@given(
    st.dictionaries(NAMES, tensors(), min_size=1, max_size=3),
    OUTPUTS,
    PARAMETERS,
    IDS,
    st.sampled_from(["", "2"]),
)
def test_a_request_is_what_protobuf_would_write(
    inputs: dict[str, tuple[str, Array]],
    outputs: Any,
    parameters: dict[str, Any],
    request_id: str,
    version: str,
) -> None:
    arrays = {name: array for name, (_, array) in inputs.items()}
    expected = pb.ModelInferRequest(model_name="é", model_version=version, id=request_id)
    for name, (datatype, array) in inputs.items():
        expected.inputs.add(name=name, datatype=datatype, shape=array.shape)
        expected.raw_input_contents.append(raw_of(array))
    for name in outputs or ():
        count = outputs[name] if isinstance(outputs, dict) else 0
        set_parameters(expected.outputs.add(name=name).parameters, {"classification": count} if count else {})
    set_parameters(expected.parameters, parameters)
    for _ in range(2):
        message = ENCODER.encode("é", arrays, version, outputs, encode_own(parameters, request_id))
        assert pb.ModelInferRequest.FromString(message) == expected
        if len(parameters) < 2:  # of which protobuf would choose the order
            assert message == expected.SerializeToString()


@given(st.lists(st.tuples(PARAMETERS, tensors()), max_size=5), PARAMETERS)
def test_requests_of_one_stream_have_each_their_own_parameters(
    given: list[tuple[dict[str, Any], tuple[str, Array]]], common: dict[str, Any]
) -> None:
    stream = Encoder(ENCODER, "m", parameters=common, timeout_seconds=30.0)
    ids = set()
    for own, (_, array) in given:
        encoded = stream.encode(Request({"x": array}, own))
        expected = pb.ModelInferRequest()
        set_parameters(expected.parameters, {**common, **own, "triton_enable_empty_final_response": True})
        for message, microseconds in ((encoded.message, 30_000_000), (encoded.with_timeout(0.5), 500_000)):
            request = pb.ModelInferRequest.FromString(message)
            assert request.parameters.pop("timeout").int64_param == microseconds
            assert request.parameters == expected.parameters
            assert list(request.raw_input_contents) == [raw_of(array)]
            ids.add(request.id)
    assert len(ids) == len(given)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_is_sent_as_the_array_that_it_is() -> None:
    for dtype in (BF16, np.float32):
        array = np.matrix([[1, 2], [3, 4]]).astype(dtype)
        request = pb.ModelInferRequest.FromString(RequestEncoder().encode("m", {"x": array}))
        assert list(request.raw_input_contents) == [array.tobytes()]


def test_threads_share_templates_that_are_forgotten_while_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_MAX_TEMPLATES", 3)
    encoder = RequestEncoder()
    start = Barrier(8)

    def run(first: int) -> bool:
        start.wait(10)
        for number in range(first, first + 400):
            array = np.full(number % 7, number, np.int32)
            message = encoder.encode(f"m{number % 3}", {"x": array}, outputs={"y": number % 2})
            request = pb.ModelInferRequest.FromString(message)
            counts = [output.parameters["classification"].int64_param for output in request.outputs]
            if (
                request.model_name != f"m{number % 3}"
                or list(request.inputs[0].shape) != [number % 7]
                or request.raw_input_contents[0] != array.tobytes()
                or counts != [number % 2]
            ):
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(run, range(0, 8000, 1000)))
    assert len(encoder._templates) <= 3 + 8
