from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scripted_engines import Answers

from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_proto.tensors import DTYPES, to_raw
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.errors import InvalidInput, NotSupported
from headrace_server.transport import codec
from headrace_server.transport.status import Status

FIXED = [name for name in DTYPES if name != "BYTES"]
TYPED = [name for name in FIXED if name not in ("FP16", "BF16")]
ENCODER = codec.Encoder()


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
    return Work(model, request_id, 1, (), None, wanted, NO_DEADLINE, Answers(), None, 0)


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
    streamed = pb.ModelStreamInferResponse.FromString(codec.stream_answer(answer))
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
    encoder = codec.Encoder()
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
    answer = pb.ModelStreamInferResponse.FromString(codec.stream_error(status, "7"))
    assert answer.error_message == "wrong"
    assert answer.infer_response.id == "7"
    assert answer.infer_response.parameters.keys() == {"error_code"}
    assert answer.infer_response.parameters["error_code"].string_param == "INVALID_ARGUMENT"


def test_a_stream_error_carries_what_a_unary_call_has_in_its_details() -> None:
    status = Status(StatusCode.UNAVAILABLE, "loading", "MODEL_NOT_READY", 0.25)
    answer = pb.ModelStreamInferResponse.FromString(codec.stream_error(status, "7"))
    parameters = answer.infer_response.parameters
    assert parameters["error_reason"].string_param == "MODEL_NOT_READY"
    assert parameters["retry_after_seconds"].double_param == 0.25


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
        "u": pb.InferParameter(uint64_param=2**64 - 1),
    }
    outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in ("b", "a")]
    request = codec.decode(message(parameters=parameters, outputs=outputs).SerializeToString())
    assert request.outputs == ["b", "a"]
    assert request.parameters == {"b": False, "i": -1, "s": "", "d": 0.5, "u": 2**64 - 1}


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


def test_raw_contents_belong_to_inputs_in_their_order_and_more_are_ignored() -> None:
    inputs = [untyped("a"), untyped("b")]
    request = codec.decode(message(inputs=inputs, raw_input_contents=[b"1", b"2", b"3"]).SerializeToString())
    assert [(one.name, one.data) for one in request.inputs] == [("a", b"1"), ("b", b"2")]


SHARED = {"shared_memory_region": pb.InferParameter(string_param="r")}


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
            message(inputs=[pb.ModelInferRequest.InferInputTensor(name="x", parameters=SHARED)]),
            NotSupported,
            "input 'x': shared memory is not supported",
            id="shared memory in",
        ),
        pytest.param(
            message(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="y", parameters=SHARED)]),
            NotSupported,
            "output 'y': shared memory is not supported",
            id="shared memory out",
        ),
        pytest.param(
            message(
                outputs=[
                    pb.ModelInferRequest.InferRequestedOutputTensor(
                        name="y", parameters={"classification": pb.InferParameter(int64_param=3)}
                    )
                ]
            ),
            NotSupported,
            "output 'y': classification is not supported",
            id="classification",
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
