"""The bytes of answers: rows, classes, shared memory, and what streams add."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scripted_engines import Answers
from works import work_of

from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_proto.tensors import DTYPES, to_raw
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import Work
from headrace_server.transport import answers
from headrace_server.transport.answers import Encoder
from headrace_server.transport.status import Status

ENCODER = Encoder()


def arrays(shape: Any = None) -> st.SearchStrategy[NDArray[Any]]:
    """Arrays of any datatype and shape, whose bits are arbitrary."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4) if shape is None else shape

    @st.composite
    def build(draw: st.DrawFn) -> NDArray[Any]:
        dtype = DTYPES[draw(st.sampled_from(list(DTYPES)))]
        sides = draw(shapes)
        count = int(np.prod(sides))
        array: NDArray[Any]
        if dtype.hasobject:
            array = np.empty(count, object)
            array[:] = draw(st.lists(st.binary(max_size=200), min_size=count, max_size=count))
        elif dtype.kind == "b":
            array = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
        else:
            size = count * dtype.itemsize
            array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
        return array.reshape(sides)

    return build()


def work_for(outputs: list[NDArray[Any]], wanted: tuple[int, ...], request_id: str, name: str = "m") -> Work:
    specs = dict(zip(wanted, outputs, strict=True))
    tensors = tuple(
        TensorSpec(f"out{i}", specs[i].dtype, (ANY,) * specs[i].ndim)
        if i in specs
        else TensorSpec(f"out{i}", np.dtype(np.int8), ())
        for i in range(max(wanted) + 1)
    )
    model = Model(name, "3", ModelSpec((), tensors, 0), "scripted", Limits())
    return work_of(model, Answers(), request_id, wanted=wanted)


def datatype(array: NDArray[Any]) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype)


@settings(deadline=None)
@given(
    outputs=st.lists(arrays(), min_size=1, max_size=3),
    gaps=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    request_id=st.one_of(st.text(max_size=10), st.text(min_size=120, max_size=140)),
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
)
def test_an_answer_is_the_message_that_protobuf_would_make(
    outputs: list[NDArray[Any]], gaps: list[int], request_id: str, name: str
) -> None:
    wanted = tuple(int(position) for position in np.cumsum(gaps)[: len(outputs)] - 1)
    work = work_for(outputs, wanted, request_id, name)
    expected = pb.ModelInferResponse(model_name=name, model_version="3", id=request_id)
    for position, array in zip(wanted, outputs, strict=True):
        expected.outputs.add(name=f"out{position}", datatype=datatype(array), shape=array.shape)
        expected.raw_output_contents.append(to_raw(array))
    for _ in range(2):
        answer = ENCODER.encode(work, outputs)
        assert pb.ModelInferResponse.FromString(answer) == expected
    for is_final in (True, False):
        expected.parameters["triton_final_response"].bool_param = is_final
        streamed = pb.ModelStreamInferResponse.FromString(answers.stream_answer(answer, is_final=is_final))
        assert streamed == pb.ModelStreamInferResponse(infer_response=expected)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_152])
def test_lengths_of_every_varint_size(size: int) -> None:
    output = np.arange(size, dtype=np.uint8)
    answer = ENCODER.encode(work_for([output], (0,), ""), [output])
    assert pb.ModelInferResponse.FromString(answer).raw_output_contents == [output.tobytes()]


def test_rows_of_a_batch_are_encoded_as_they_stand() -> None:
    batch = np.arange(24, dtype=np.float32).reshape(4, 6)
    for rows in (batch[1:3], batch[::2], batch[:, ::2], batch.T):
        answer = pb.ModelInferResponse.FromString(ENCODER.encode(work_for([rows], (0,), "a"), [rows]))
        assert answer.outputs[0].shape == list(rows.shape)
        assert answer.raw_output_contents == [np.ascontiguousarray(rows).tobytes()]


def test_two_models_of_one_name_keep_their_own_answers() -> None:
    one = work_for([np.zeros(2, np.float32)], (0,), "")
    other = work_for([np.zeros(2, np.int64)], (0,), "")
    for work, expected in ((one, "FP32"), (other, "INT64"), (one, "FP32")):
        outputs = [np.zeros(2, DTYPES[expected])]
        answer = pb.ModelInferResponse.FromString(ENCODER.encode(work, outputs))
        assert answer.outputs[0].datatype == expected


def test_invariant_4_any_number_of_shapes_leaves_a_bounded_number_of_templates() -> None:
    encoder = Encoder()
    work = work_for([np.zeros(0, np.int8)], (0,), "x")
    tracemalloc.start()
    try:
        for size in range(20_000):
            answer = encoder.encode(work, [np.zeros((0, size), np.int8)])
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pb.ModelInferResponse.FromString(answer).outputs[0].shape == [0, 19_999]
    assert held_bytes < 4 << 20


def test_a_stream_error_carries_text_id_and_code() -> None:
    status = Status(StatusCode.INVALID_ARGUMENT, "wrong")
    answer = pb.ModelStreamInferResponse.FromString(answers.stream_error(status, "7"))
    assert answer.error_message == "wrong"
    assert answer.infer_response.id == "7"
    assert answer.infer_response.parameters.keys() == {"error_code", "triton_final_response"}
    assert answer.infer_response.parameters["error_code"].string_param == "INVALID_ARGUMENT"
    assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_a_stream_error_carries_what_a_unary_call_has_in_its_details() -> None:
    status = Status(StatusCode.UNAVAILABLE, "loading", "MODEL_NOT_READY", 0.25)
    answer = pb.ModelStreamInferResponse.FromString(answers.stream_error(status, "7"))
    parameters = answer.infer_response.parameters
    assert parameters["error_reason"].string_param == "MODEL_NOT_READY"
    assert parameters["retry_after_seconds"].double_param == 0.25
