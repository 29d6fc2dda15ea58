from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_proto.tensors import datatype_of
from headrace_server.core.admission import Admission
from headrace_server.core.request import InputTensor, Request
from headrace_server.core.settings import ControlInput, ModelSettings, SequenceControl, Sequences
from headrace_server.errors import InferenceError, InvalidInput, NotSupported


def tensor(name: str, dtype: Any, *dims: int) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), dims)


Y = tensor("y", np.float32, 2)
STAGED = ModelSpec((tensor("x", np.float32, 3),), (Y,), 8)
TWO = ModelSpec((tensor("a", np.float32, 3), tensor("b", np.int64)), (Y, tensor("z", np.int64)), 8)
RAGGED = ModelSpec((tensor("x", np.float32, ANY, 2),), (Y,), 8)
ALL_RAGGED = ModelSpec((tensor("x", np.float32, ANY, ANY),), (Y,), 8)
TWO_RAGGED = ModelSpec((tensor("a", np.float32, ANY), tensor("b", object)), (Y,), 8)
STRINGS = ModelSpec((tensor("s", object, 2),), (Y,), 8)
FLAGS = ModelSpec((tensor("f", bool, 2),), (Y,), 8)
ALONE = ModelSpec((tensor("x", np.float32, 3),), (Y,), 0)
ALONE_RAGGED = ModelSpec((tensor("x", np.float32, ANY, 3),), (Y,), 0)
SCALAR = ModelSpec((tensor("x", np.float32),), (Y,), 0)


def came(
    name: str, shape: Sequence[int], data: Any = None, datatype: str = "FP32", itemsize: int = 4
) -> InputTensor:
    if data is None:
        data = bytes(max(0, int(np.prod(shape, dtype=object)) * itemsize))
    return InputTensor(name, datatype, tuple(shape), data)


def strings(*elements: bytes) -> np.ndarray[Any, Any]:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def request(
    *inputs: InputTensor, outputs: Sequence[str] = (), parameters: Mapping[str, Any] | None = None
) -> Request:
    return Request("m", "", "", inputs, outputs, parameters or {})


X = came("x", (2, 3))


@pytest.mark.parametrize(
    ("spec", "inputs", "rows", "shapes"),
    [
        pytest.param(STAGED, [X], 2, None, id="fixed dims"),
        pytest.param(STAGED, [came("x", (8, 3))], 8, None, id="the largest batch"),
        pytest.param(TWO, [came("b", (2,), None, "INT64", 8), came("a", (2, 3))], 2, None, id="any order"),
        pytest.param(RAGGED, [came("x", (1, 5, 2))], 1, ((1, 5, 2),), id="a variable dim"),
        pytest.param(RAGGED, [came("x", (2, 0, 2))], 2, ((2, 0, 2),), id="a variable dim of nothing"),
        pytest.param(STRINGS, [came("s", (1, 2), strings(b"a", b""), "BYTES")], 1, ((1, 2),), id="strings"),
        pytest.param(FLAGS, [came("f", (1, 2), b"\1\0", "BOOL")], 1, None, id="flags"),
        pytest.param(ALONE, [came("x", (3,))], 1, ((3,),), id="no batch axis"),
        pytest.param(ALONE_RAGGED, [came("x", (9, 3))], 1, ((9, 3),), id="more than a batch, as a dim"),
        pytest.param(SCALAR, [came("x", ())], 1, ((),), id="a scalar"),
    ],
)
def test_what_is_accepted(spec: ModelSpec, inputs: list[InputTensor], rows: int, shapes: Any) -> None:
    admitted = Admission("m", spec).admit(request(*inputs))
    assert admitted.rows == rows
    assert admitted.shapes == shapes
    assert admitted.wanted == tuple(range(len(spec.outputs)))
    assert admitted.terms.timeout_us == 0
    by_name = {one.name: one.data for one in inputs}
    assert all(data is by_name[one.name] for data, one in zip(admitted.data, spec.inputs, strict=True))


@pytest.mark.parametrize(
    ("spec", "inputs", "text"),
    [
        pytest.param(STAGED, [came("w", (2, 3))], "'m' has no input 'w'; it takes 'x'", id="wrong name"),
        pytest.param(TWO, [came("a", (1, 3))], "model 'm' needs input 'b', which did not come", id="missing"),
        pytest.param(TWO, [], "model 'm' needs input 'a', 'b', which did not come", id="none at all"),
        pytest.param(STAGED, [X, came("w", (2, 3))], "has no input 'w'; it takes 'x'", id="extra"),
        pytest.param(STAGED, [X, X], "input 'x' came twice", id="duplicate"),
        pytest.param(
            STAGED, [came("x", (2, 3), datatype="FP64")], "input 'x': datatype 'FP64' came, 'FP32' expected"
        ),
        pytest.param(STAGED, [came("x", (2, 3), datatype="")], "datatype '' came, 'FP32' expected"),
        pytest.param(
            STAGED, [came("x", (6,))], r"input 'x': shape \[6\] came, \[batch, 3\] expected", id="rank"
        ),
        pytest.param(STAGED, [came("x", (1, 2, 3))], r"shape \[1, 2, 3\] came, \[batch, 3\] expected"),
        pytest.param(STAGED, [came("x", ())], r"shape \[\] came, \[batch, 3\] expected", id="no dims"),
        pytest.param(STAGED, [came("x", (2, 4))], r"shape \[2, 4\] came, \[batch, 3\] expected", id="dim"),
        pytest.param(STAGED, [came("x", (2, -3))], r"shape \[2, -3\] came", id="negative dim"),
        pytest.param(RAGGED, [came("x", (1, -1, 2))], r"shape \[1, -1, 2\] came, \[batch, any, 2\] expected"),
        pytest.param(
            ALL_RAGGED,
            [came("x", (1, -1, -1), bytes(4))],
            r"shape \[1, -1, -1\] came, \[batch, any, any\] expected",
            id="negative dims whose product is positive",
        ),
        pytest.param(STAGED, [came("x", (0, 3))], "batch of 0 rows came, model 'm' takes 1 to 8", id="empty"),
        pytest.param(STAGED, [came("x", (9, 3))], "batch of 9 rows came, model 'm' takes 1 to 8", id="large"),
        pytest.param(STAGED, [came("x", (-1, 3))], "batch of -1 rows came, model 'm' takes 1 to 8"),
        pytest.param(
            STAGED, [came("x", (2**62, 3), b"")], f"batch of {2**62} rows came", id="overflowing batch"
        ),
        pytest.param(
            RAGGED,
            [came("x", (4, 2**62, 2), b"")],
            f"0 bytes came, shape .* of FP32 needs {2**67}$",
            id="a shape that overflows 64 bits to 0 bytes",
        ),
        pytest.param(
            ALL_RAGGED,
            [came("x", (1, 0, 2**62), b"")],
            f"shape .1, 0, {2**62}. is larger than any array",
            id="nothing, beside a dim that overflows",
        ),
        pytest.param(
            STAGED,
            [came("x", (2, 3), bytes(20))],
            r"input 'x': 20 bytes came, shape \[2, 3\] of FP32 needs 24",
            id="too few bytes",
        ),
        pytest.param(STAGED, [came("x", (2, 3), bytes(25))], "25 bytes came, .* needs 24", id="too many"),
        pytest.param(RAGGED, [came("x", (1, 2, 2), bytes(12))], "12 bytes came, .* needs 16"),
        pytest.param(
            STRINGS, [came("s", (1, 2), strings(b"a"), "BYTES")], r"1 elements came, shape \[1, 2\] of BYTES"
        ),
        pytest.param(
            STRINGS,
            [came("s", (1, 2), strings(b"a", b"\xff"), "BYTES")],
            "input 's': element 1 is no UTF-8 text",
            id="no text",
        ),
        pytest.param(
            FLAGS,
            [came("f", (1, 2), b"\1\2", "BOOL")],
            "input 'f': a BOOL is a byte 0 or 1, 2 came",
            id="neither true nor false",
        ),
        pytest.param(
            TWO,
            [came("a", (2, 3)), came("b", (3,), None, "INT64", 8)],
            "input 'b' has 3 rows and input 'a' has 2: all inputs of a request need the same number",
            id="unequal rows",
        ),
        pytest.param(
            TWO_RAGGED,
            [came("a", (1, 5)), came("b", (2,), strings(b"a", b"b"), "BYTES")],
            "input 'b' has 2 rows and input 'a' has 1",
            id="unequal rows of variable dims",
        ),
        pytest.param(
            STRINGS,
            [came("s", (1, 2), b"\x05\0\0\0a", "BYTES")],
            r"input 's': .*; shape \[1, 2\] needs 2",
            id="strings that end too early",
        ),
        pytest.param(ALONE, [came("x", (1, 3))], r"shape \[1, 3\] came, \[3\] expected", id="no batch axis"),
        pytest.param(SCALAR, [came("x", (1,))], r"shape \[1\] came, \[\] expected", id="not a scalar"),
    ],
)
def test_invariant_2_what_cannot_be_executed_is_refused(
    spec: ModelSpec, inputs: list[InputTensor], text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        Admission("m", spec).admit(request(*inputs))


def test_a_model_that_takes_any_bytes_is_given_them() -> None:
    spec = dataclasses.replace(STRINGS, takes_any_bytes=True)
    given = came("s", (1, 2), strings(b"a", b"\xff"), "BYTES")
    (data,) = Admission("m", spec).admit(request(given)).data
    assert list(data) == [b"a", b"\xff"]


@pytest.mark.parametrize(
    ("outputs", "wanted"), [((), (0, 1)), (("z",), (1,)), (("z", "y"), (1, 0)), (("y", "y"), (0,))]
)
def test_requested_outputs(outputs: tuple[str, ...], wanted: tuple[int, ...]) -> None:
    inputs = (came("a", (1, 3)), came("b", (1,), None, "INT64", 8))
    assert Admission("m", TWO).admit(request(*inputs, outputs=outputs)).wanted == wanted


def test_an_unknown_output_is_refused_with_the_known_ones() -> None:
    inputs = (came("a", (1, 3)), came("b", (1,), None, "INT64", 8))
    with pytest.raises(InvalidInput, match="model 'm' has no output 'w'; it has 'y', 'z'"):
        Admission("m", TWO).admit(request(*inputs, outputs=("y", "w")))


@pytest.mark.parametrize(
    ("parameters", "timeout_us"),
    [
        ({}, 0),
        ({"timeout": 5}, 5),
        ({"timeout": 0}, 0),
        ({"timeout": 2**64 - 1}, 2**64 - 1),
        ({"priority": 1, "anything": "else", "x": 1.5, "y": True}, 0),
        ({"triton_enable_empty_final_response": True}, 0),
    ],
)
def test_parameters_that_are_taken(parameters: dict[str, Any], timeout_us: int) -> None:
    assert Admission("m", STAGED).admit(request(X, parameters=parameters)).terms.timeout_us == timeout_us


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({"timeout": -1}, InvalidInput, "parameter 'timeout': -1 came, a whole number of microseconds"),
        ({"timeout": True}, InvalidInput, "parameter 'timeout': True came"),
        ({"timeout": 1.5}, InvalidInput, "parameter 'timeout': 1.5 came"),
        ({"timeout": "5"}, InvalidInput, "parameter 'timeout': '5' came"),
        ({"triton_other": 1}, InvalidInput, "names that begin with 'triton_' are reserved"),
        ({"sequence_id": 1}, NotSupported, "sequences .* are not supported"),
        ({"sequence_id": True}, InvalidInput, "parameter 'sequence_id': True came"),
        ({"sequence_end": 0}, InvalidInput, "parameter 'sequence_end': 0 came"),
        ({"sequence_start": True}, NotSupported, "parameter sequence_start"),
        ({"sequence_end": True}, NotSupported, "parameter sequence_end"),
    ],
)
def test_parameters_that_are_refused(
    parameters: dict[str, Any], error: type[InferenceError], text: str
) -> None:
    with pytest.raises(error, match=text):
        Admission("m", STAGED).admit(request(X, parameters=parameters))


OPTIONAL = ModelSpec(
    (tensor("x", np.float32, 3), dataclasses.replace(tensor("bias", np.float32, 1), is_optional=True)),
    (Y,),
    8,
)
ALL_OPTIONAL = ModelSpec(
    tuple(dataclasses.replace(one, is_optional=True) for one in OPTIONAL.inputs), (Y,), 8
)
CONTROLLED = ModelSettings(
    sequences=Sequences(controls=(ControlInput("bias", SequenceControl.START, "FP32"),))
)
IN_SEQUENCE = {"sequence_id": 1}


def test_an_optional_input_may_be_left_out_and_leaves_its_place_empty() -> None:
    bias = came("bias", (2, 1))
    admission = Admission("m", OPTIONAL)
    without, whole = admission.admit(request(X)), admission.admit(request(bias, X))
    assert (without.data, without.shapes, without.size_bytes) == ((X.data, None), ((2, 3), None), 24)
    assert (whole.data, whole.shapes, whole.size_bytes) == ((X.data, bias.data), ((2, 3), (2, 1)), 32)


@pytest.mark.parametrize(
    ("spec", "inputs", "message"),
    [
        (OPTIONAL, [came("bias", (1, 1))], "model 'm' needs input 'x', which did not come"),
        (ALL_OPTIONAL, [], "model 'm' needs an input that says how many rows are wanted"),
        (OPTIONAL, [X, came("bias", (1, 1))], "input 'bias' has 1 rows and input 'x' has 2"),
    ],
)
def test_what_cannot_be_left_out(spec: ModelSpec, inputs: list[InputTensor], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Admission("m", spec).admit(request(*inputs))


def test_inputs_that_the_server_fills_are_not_the_callers_to_send() -> None:
    admission = Admission("m", OPTIONAL, CONTROLLED)
    admitted = admission.admit(request(X, parameters=IN_SEQUENCE))
    assert (admitted.data, admitted.shapes) == ((X.data, None), ((2, 3), None))
    with pytest.raises(InvalidInput, match="model 'm' has no input 'bias'; it takes 'x'"):
        admission.admit(request(X, came("bias", (2, 1)), parameters=IN_SEQUENCE))


def test_a_model_that_is_told_of_sequences_alone_executes_one_row() -> None:
    spec = ModelSpec((tensor("bias", np.float32, 1),), (Y,), 8)
    admitted = Admission("m", spec, CONTROLLED).admit(request(parameters=IN_SEQUENCE))
    assert (admitted.rows, admitted.data, admitted.size_bytes) == (1, (None,), 0)


def test_strings_count_with_the_memory_that_they_take() -> None:
    many = came("s", (4, 2), strings(*[b""] * 8), "BYTES")
    assert Admission("m", STRINGS).admit(request(many)).size_bytes >= 8 * sys.getsizeof(b"")


DTYPES = (np.bool_, np.uint8, np.int16, np.float16, ml_dtypes.bfloat16, np.float32, np.int64)


@given(
    dtype=st.sampled_from(DTYPES),
    dims=st.lists(st.sampled_from([ANY, 0, 1, 2, 3]), max_size=3),
    max_batch_size=st.integers(0, 4),
    shape=st.lists(st.integers(-2, 6), max_size=4),
    size=st.one_of(st.none(), st.integers(0, 300)),
)
def test_invariant_2_whatever_is_accepted_is_an_array_of_the_models_rank_and_dims(
    dtype: Any, dims: list[int], max_batch_size: int, shape: list[int], size: int | None
) -> None:
    spec = ModelSpec((tensor("x", dtype, *dims),), (Y,), max_batch_size)
    itemsize = np.dtype(dtype).itemsize
    data = bytes(size) if size is not None else None
    one = came("x", shape, data, datatype_of(np.dtype(dtype)), itemsize)
    batch = [max_batch_size] if max_batch_size else []
    fits = (
        len(shape) == len(dims) + len(batch)
        and min(shape, default=0) >= 0
        and (not batch or 1 <= shape[0] <= max_batch_size)
        and all(dim in (ANY, side) for dim, side in zip(dims, shape[len(batch) :], strict=True))
        and len(one.data) == int(np.prod(shape, dtype=np.int64)) * itemsize
    )
    try:
        admitted = Admission("m", spec).admit(request(one))
    except InvalidInput:
        assert not fits
    else:
        assert fits
        assert admitted.rows == (shape[0] if batch else 1)


def test_a_batch_for_a_model_that_takes_rows_alone_is_told_why() -> None:
    alone = dataclasses.replace(STAGED, max_batch_size=1, batch_sizes=(1,))
    settings = ModelSettings(why_alone="output 'y' changes")
    with pytest.raises(InvalidInput) as refused:
        Admission("m", alone, settings).admit(request(came("x", (3, 3))))
    assert str(refused.value) == (
        "input 'x': batch of 3 rows came, model 'm' takes one row a request, since in a batch output 'y' "
        "changes: send row by row; where axis 0 does not count rows, the model's configuration needs "
        "`max_batch_size: 0`"
    )
    with pytest.raises(InvalidInput, match=r"batch of 3 rows came, model 'm' takes one row a request$"):
        Admission("m", alone).admit(request(came("x", (3, 3))))
