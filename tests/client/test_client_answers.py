"""How the bytes of answers become arrays: what is copied, and what servers may send beside the usual."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress
from typing import Any

import ml_dtypes  # noqa: F401 - gives NumPy its bfloat16
import numpy as np
import pytest
from fake_servers import answer, echo
from hypothesis import given
from hypothesis import strategies as st

from headrace.answers import decode_response
from headrace.errors import RequestFailed
from headrace.messages import decode_stream_answer
from headrace.requests import RequestEncoder
from headrace.retry import Failure
from headrace.stream_requests import Encoder
from headrace_proto.v1 import inference_pb2 as pb

UNKNOWN_FIELDS = (b"\x38\x05", b"\xfa\x01\x01a", b"\x39" + bytes(8))
"""A number, a string and eight bytes in fields that the protocol does not have."""


def answered(array: np.ndarray[Any, Any], filler: str = "") -> bytes:
    """Return an answer with this array, behind a model's name that moves it within the message."""
    response = pb.ModelInferResponse(model_name="m" + filler, raw_output_contents=[array.tobytes()])
    response.outputs.add(name="y", datatype="FP64", shape=array.shape)
    return response.SerializeToString()


@pytest.mark.parametrize("padding", range(8))
def test_an_output_is_a_view_of_the_message_where_it_is_aligned_there(padding: int) -> None:
    message = answered(np.arange(6.0).reshape(2, 3), "m" * padding)
    output = decode_response(message)["y"]
    assert output.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert output.flags.aligned
    assert not output.flags.writeable
    is_view = output.base is not None
    start = np.frombuffer(message, np.uint8).ctypes.data + len(message) - output.nbytes
    assert is_view is (start % 8 == 0)


def test_an_output_outlives_its_message() -> None:
    outputs = [decode_response(answered(np.full(1000, number)))["y"] for number in np.arange(8.0)]
    gc.collect()
    assert [set(output.tolist()) for output in outputs] == [{number} for number in range(8)]


def test_answers_of_one_kind_have_each_their_own_id_and_values() -> None:
    encoder = Encoder(RequestEncoder(), "m")
    for number in range(300):
        request = encoder.encode({"x": np.array([number])})
        message = answer(pb.ModelInferRequest.FromString(request.message)).SerializeToString()
        found = decode_stream_answer(message)
        assert found.id == request.id
        assert isinstance(found.result, dict)
        assert found.result["x"].tolist() == [number]


def test_values_in_an_answer_are_not_remembered() -> None:
    for number in (1, 2):
        response = pb.ModelInferResponse()
        response.outputs.add(name="y", datatype="INT32", shape=[1]).contents.int_contents.append(number)
        array = decode_response(response.SerializeToString())["y"]
        assert array.tolist() == [number]
        array += 5


@pytest.mark.parametrize("field", UNKNOWN_FIELDS)
def test_fields_of_a_later_protocol_are_passed_over(field: bytes) -> None:
    message = answered(np.arange(2.0))
    for changed in (message + field, field + message):
        assert decode_response(changed)["y"].tolist() == [0, 1]
        wrapped = pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse.FromString(changed))
        for outer in (wrapped.SerializeToString(), field + wrapped.SerializeToString()):
            found = decode_stream_answer(outer).result
            assert isinstance(found, dict)
            assert found["y"].tolist() == [0, 1]


@given(st.binary(max_size=40))
def test_any_bytes_are_an_answer_or_told_to_be_none(message: bytes) -> None:
    with suppress(RequestFailed):
        decode_response(message)
    found = decode_stream_answer(message)
    assert found.result is None or isinstance(found.result, dict | Failure | RequestFailed)


@given(st.integers(0, 10_000), st.data())
def test_a_message_that_was_cut_or_changed_never_passes_as_another_array(size: int, data: Any) -> None:
    message = answered(np.zeros(size))
    at = data.draw(st.integers(0, len(message) - 1))
    try:
        outputs = decode_response(message[:at])
    except RequestFailed:
        return
    assert outputs == {}, "all of an output, or none of it"


@pytest.mark.parametrize("dtype", ["float32", "bool", "bfloat16"])
@pytest.mark.parametrize("columns", [1000, 0])
def test_a_tensor_is_copied_once_into_its_request(dtype: str, columns: int) -> None:
    array = np.zeros((1000, columns), dtype)
    encoder = RequestEncoder()
    message = encoder.encode("m", {"x": array})
    tracemalloc.start()
    try:
        message = encoder.encode("m", {"x": array})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert array.nbytes <= len(message) <= peak < array.nbytes + 10_000


def test_a_request_holds_the_fields_that_were_asked_for() -> None:
    array = np.arange(300, dtype=np.int16).reshape(3, 100)
    encoder = RequestEncoder()
    for _ in range(2):
        own = pb.ModelInferRequest(id="é", parameters={"p": pb.InferParameter(int64_param=5)})
        message = encoder.encode("m", {"x": array, "z": array[0]}, "2", {"y": 3}, own.SerializeToString())
        expected = pb.ModelInferRequest(model_name="m", model_version="2")
        expected.inputs.add(name="x", datatype="INT16", shape=[3, 100])
        expected.inputs.add(name="z", datatype="INT16", shape=[100])
        expected.outputs.add(name="y").parameters["classification"].int64_param = 3
        expected.raw_input_contents.extend([array.tobytes(), array[0].tobytes()])
        expected.MergeFrom(own)
        assert pb.ModelInferRequest.FromString(message) == expected


def test_more_kinds_of_requests_than_are_remembered() -> None:
    encoder = RequestEncoder()
    for size in [*range(1, 1500), 1, 2]:
        request = pb.ModelInferRequest.FromString(encoder.encode("m", {"x": np.zeros(size, np.uint8)}))
        assert list(request.inputs[0].shape) == [size]
        assert decode_response(echo(request).SerializeToString())["x"].shape == (size,)


def test_outputs_that_are_equal_and_travel_otherwise() -> None:
    encoder = RequestEncoder()
    kinds = []
    for count in (1, 1.0, True):
        message = encoder.encode("m", {"x": np.zeros(1)}, "", {"y": count})  # type: ignore[dict-item]  # wrong
        parameter = pb.ModelInferRequest.FromString(message).outputs[0].parameters["classification"]
        kinds.append(parameter.WhichOneof("parameter_choice"))
    assert kinds == ["int64_param", "double_param", "bool_param"]
