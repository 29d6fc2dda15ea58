from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_servers import answer, echo, refusal
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.answers import decode_response
from headrace.errors import InvalidInput, RequestFailed
from headrace.messages import StreamAnswer, decode_stream_answer
from headrace.requests import RequestEncoder
from headrace.retry import Failure
from headrace_proto.v1 import inference_pb2 as pb


def encode_request(model: str, inputs: Any, **wanted: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest.FromString(RequestEncoder().encode(model, inputs, **wanted))


def said(response: pb.ModelStreamInferResponse) -> StreamAnswer:
    return decode_stream_answer(response.SerializeToString())


@pytest.mark.parametrize(
    ("array", "datatype", "shape"),
    [
        (np.zeros((2, 3), np.float32), "FP32", [2, 3]),
        (np.zeros((2, 3), ">f4"), "FP32", [2, 3]),
        (np.zeros((4, 6))[::2, ::3], "FP64", [2, 2]),
        (np.array(7), "INT64", []),
        (np.zeros((0, 5), np.uint8), "UINT8", [0, 5]),
        (np.zeros(3, ml_dtypes.bfloat16), "BF16", [3]),
        (np.array(["a", "bc"]), "BYTES", [2]),
        (np.array([b"a", "ä"], object), "BYTES", [2]),
    ],
)
def test_an_array_on_the_wire(array: np.ndarray[Any, Any], datatype: str, shape: list[int]) -> None:
    request = encode_request("m", {"x": array})
    assert (request.inputs[0].name, request.inputs[0].datatype) == ("x", datatype)
    assert list(request.inputs[0].shape) == shape
    outputs = decode_response(echo(request).SerializeToString())["x"]
    expected = [s.encode() if isinstance(s, str) else s for s in array.ravel().tolist()]
    assert outputs.ravel().tolist() == expected
    assert outputs.shape == array.shape


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=9),
        arrays.arrays(
            st.one_of(
                arrays.boolean_dtypes(),
                arrays.integer_dtypes(),
                arrays.unsigned_integer_dtypes(),
                arrays.floating_dtypes(sizes=(16, 32, 64)),
            ),
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_there_and_back(inputs: dict[str, Any]) -> None:
    message = encode_request("m", inputs)
    outputs = decode_response(echo(message).SerializeToString())
    assert list(outputs) == list(inputs)
    for name, array in inputs.items():
        np.testing.assert_array_equal(outputs[name], array)
        assert outputs[name].dtype == array.dtype.newbyteorder("<")


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "none came"),
        ([np.zeros(1)], "inputs: list came"),
        ({"x": [1, 2]}, "input 'x': list came"),
        ({"x": np.float32(1)}, "input 'x': float32 came"),
        ({"x": None}, "input 'x': NoneType came"),
        ({3: np.zeros(1)}, "input 3: its name is int"),
        ({"x": np.array([1j])}, "input 'x': dtype complex128"),
        ({"x": np.array([object()])}, "input 'x': BYTES element 0 is object"),
        ({"x": np.array(["2026"], "datetime64[D]")}, "input 'x': dtype datetime64"),
        ({"x": np.ma.array([1.0, 2.0], mask=[True, False])}, "input 'x': a masked array came"),
        ({"\ud800": np.zeros(1)}, r"input '\\ud800': its name is no text"),
        ({"x": np.array(["\ud800"])}, "input 'x': .* surrogates not allowed"),
    ],
)
def test_what_cannot_be_sent(inputs: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        encode_request("m", inputs)
    assert caught.value.attempts == 0


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"model": 3}, "model: int came"),
        ({"model": "\ud800"}, "model is no text"),
        ({"version": 1}, "version is int, str expected"),
        ({"version": ["1"]}, "version is list, str expected"),
        ({"version": "\ud800"}, "version is no text"),
        ({"outputs": "scores"}, r"such as \['scores'\]"),
        ({"outputs": 5}, "outputs: int came"),
        ({"outputs": iter(["scores"])}, "outputs: list_iterator came"),
        ({"outputs": [1]}, "output 1: its name is int"),
        ({"outputs": [["scores"]]}, r"output \['scores'\]: its name is list"),
        ({"outputs": ["\ud800"]}, r"output '\\ud800': its name is no text"),
        ({"outputs": {1: 1}}, "output 1: its name is int"),
        ({"outputs": {"y": [1]}}, "'classification': list came"),
        ({"outputs": {"y": []}}, "'classification': list came"),
    ],
)
def test_what_cannot_be_asked_for(wanted: Any, text: str) -> None:
    encoder = RequestEncoder()
    for _ in range(2):  # a mistake is none that a template remembers
        with pytest.raises(InvalidInput, match=text):
            encoder.encode(**{"model": "m", "inputs": {"x": np.zeros(1)}, **wanted})


@pytest.mark.parametrize("outputs", [{"y": 0, "z": 0}, {"y", "z"}, {"y": 0, "z": 0}.keys(), ("y", "z")])
def test_outputs_are_named_by_any_collection(outputs: Any) -> None:
    encoder = RequestEncoder()
    for _ in range(2):
        request = pb.ModelInferRequest.FromString(encoder.encode("m", {"x": np.zeros(1)}, outputs=outputs))
        assert {output.name for output in request.outputs} == {"y", "z"}
        assert not any(output.parameters for output in request.outputs)


def test_the_request_holds_a_copy() -> None:
    """A caller may use one buffer for every request of a stream."""
    buffer = np.zeros(2, np.float32)
    request = encode_request("m", {"x": buffer})
    buffer[:] = 7
    assert decode_response(echo(request).SerializeToString())["x"].tolist() == [0, 0]


def test_typed_contents_are_read_beside_raw_ones() -> None:
    response = pb.ModelInferResponse(raw_output_contents=[b"\x01\0\0\0", b"\x02\0\0\0"])
    response.outputs.add(name="a", datatype="INT32", shape=[1])
    response.outputs.add(name="b", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    response.outputs.add(name="c", datatype="INT32", shape=[1])
    outputs = decode_response(response.SerializeToString())
    assert {name: array.tolist() for name, array in outputs.items()} == {"a": [1], "b": [[1, 2]], "c": [2]}


def wrong(datatype: str, shape: list[int], *raws: bytes) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(raw_output_contents=raws)
    response.outputs.add(name="y", datatype=datatype, shape=shape)
    return response


@pytest.mark.parametrize(
    "response",
    [
        wrong("FP32", [2], b"abc"),
        wrong("FP33", [1], b"abcd"),
        wrong("FP32", [1]),
        wrong("FP32", [-1], b"abcd"),
        wrong("BYTES", [1], b"\xff\xff\xff\xffa"),
    ],
)
def test_an_answer_that_contradicts_itself(response: pb.ModelInferResponse) -> None:
    with pytest.raises(RequestFailed, match="output 'y'") as caught:
        decode_response(response.SerializeToString())
    assert caught.value.code is StatusCode.DATA_LOSS
    in_a_stream = said(pb.ModelStreamInferResponse(infer_response=response)).result
    assert isinstance(in_a_stream, RequestFailed)


@pytest.mark.parametrize("shape", [[3], [-1], [2, -1], [-1, -2], [0], []])
def test_typed_contents_that_do_not_fit(shape: list[int]) -> None:
    response = wrong("FP32", shape)
    response.outputs[0].contents.fp32_contents.extend([1, 2])
    with pytest.raises(RequestFailed, match="output 'y'"):
        decode_response(response.SerializeToString())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("INVALID_ARGUMENT", StatusCode.INVALID_ARGUMENT),
        ("UNAVAILABLE", StatusCode.UNAVAILABLE),
        ("", StatusCode.UNKNOWN),
        ("SOMETHING_NEW", StatusCode.UNKNOWN),
    ],
)
def test_an_error_in_a_stream(name: str, code: StatusCode) -> None:
    assert said(refusal("7", "the reason", name)).result == Failure(code, "the reason")


@pytest.mark.parametrize("text", ["", "full"])
def test_an_error_in_a_stream_may_come_without_a_text(text: str) -> None:
    response = refusal("7", text, "RESOURCE_EXHAUSTED", retry_after_seconds=1.5)
    found = said(response)
    expected = text or "the server gave no reason"
    assert found == StreamAnswer("7", Failure(StatusCode.RESOURCE_EXHAUSTED, expected, 1.5))
    response.infer_response.parameters["triton_final_response"].bool_param = True
    assert said(response) == found
    response.infer_response.parameters["triton_final_response"].bool_param = False
    assert not said(response).is_last


def test_outputs_that_came_with_an_error_code_and_no_text_are_outputs() -> None:
    response = answer(encode_request("m", {"x": np.array([5])}))
    response.infer_response.parameters["error_code"].string_param = "of the model's own"
    assert isinstance(said(response).result, dict)


@pytest.mark.parametrize(
    ("advice", "seconds"),
    [(1.5, 1.5), (0.0, 0.0), (-1.0, None), (float("nan"), None), (float("inf"), None), (None, None)],
)
def test_advice_in_a_stream(advice: float | None, seconds: float | None) -> None:
    response = refusal("7", "full", "RESOURCE_EXHAUSTED", retry_after_seconds=advice)
    assert said(response).result == Failure(StatusCode.RESOURCE_EXHAUSTED, "full", seconds)


def test_a_reason_in_a_stream() -> None:
    found = said(refusal("7", "loading", "UNAVAILABLE", reason="MODEL_NOT_READY")).result
    assert isinstance(found, Failure)
    assert found.model_not_ready


def test_an_answer_in_a_stream() -> None:
    request = encode_request("m", {"x": np.array([5])})
    found = said(answer(request)).result
    assert isinstance(found, dict)
    assert found["x"].tolist() == [5]
