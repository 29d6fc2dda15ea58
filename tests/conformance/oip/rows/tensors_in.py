"""What an inference takes: which contents belong to which input, shapes, names, and what is refused."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from oip import differences
from oip.build import Given, array, infer, raw, tensors, typed
from oip.case import Case, Code, Step, ask, case
from oip.graphs import LOOKUP

from headrace_proto.v1 import inference_pb2 as pb

_X: Final = raw("x", "FP32", [[1, 2, 3]])
_Y: Final = tensors(y=("FP32", [[1, 2, 3]]))
_ONE: Final = np.arange(16, dtype=np.int32).reshape(1, 16)
_TWO: Final = np.full((1, 16), 5, np.int32)
_PAIR: Final = (raw("INPUT0", "INT32", _ONE), raw("INPUT1", "INT32", _TWO))
_SUMS: Final = tensors(OUTPUT0=("INT32", _ONE + _TWO), OUTPUT1=("INT32", _ONE - _TWO))
_DEADLY: Final = "the Python backend of Triton 2.51 dies of it"


def _given(name: str, request: pb.ModelInferRequest, expected: Any = _Y, **more: Any) -> Case:
    return case(name, ask("ModelInfer", request, gives=expected), **more)


def _refused(
    name: str,
    request: pb.ModelInferRequest,
    says: str,
    code: Code = Code.INVALID_ARGUMENT,
    *,
    only_ours: str = "",
    **more: Any,
) -> Case:
    """Expect a refusal, and that the next good request is answered."""
    return case(name, ask("ModelInfer", request, code, says, **more), good(), only_ours=only_ours)


def good() -> Step:
    """Make the step of a request that is answered whenever the server is well."""
    return ask("ModelInfer", infer("identity_FP32", _X), gives=_Y)


def _shaped(*shape: int, size: int = 12, model: str = "identity_FP32") -> pb.ModelInferRequest:
    return infer(model, Given("x", "FP32", shape, bytes(size)))


def _with_raw(request: pb.ModelInferRequest, *contents: bytes) -> pb.ModelInferRequest:
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(contents)
    return request


def _with_empty_contents(*raw_contents: bytes) -> pb.ModelInferRequest:
    request = _with_raw(infer("identity_FP32", _X), *raw_contents)
    request.inputs[0].contents.SetInParent()
    return request


def _with_both() -> pb.ModelInferRequest:
    request = infer("identity_FP32", _X)
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    return request


def _column(rows: int) -> Any:
    return array("FP32", [[1, 2, 3]] * rows)


CASES: Final[list[Case]] = [
    _given("two raw inputs", infer("simple", *_PAIR), _SUMS),
    _given("two raw inputs in another order", infer("simple", _PAIR[1], _PAIR[0]), _SUMS),
    _given(
        "two typed inputs",
        infer("simple", typed("INPUT0", "INT32", _ONE), typed("INPUT1", "INT32", _TWO)),
        _SUMS,
    ),
    _given(
        "raw contents that nobody asked for are passed over",
        _with_raw(infer("identity_FP32", _X), _X.raw or b"", b"more"),
    ),
    *(
        _given(
            f"a batch of {rows}",
            infer("identity_FP32", raw("x", "FP32", _column(rows))),
            tensors(y=("FP32", _column(rows))),
        )
        for rows in (2, 7, 8)
    ),
    _given(
        "a model without a batch axis",
        infer("alone", raw("x", "FP32", [[1, 2, 3], [4, 5, 6]])),
        tensors(y=("FP32", [[1, 2, 3], [4, 5, 6]])),
    ),
    *(
        _given(
            f"{length} elements of any number",
            infer("variable", raw("x", "FP32", np.arange(2 * length).reshape(2, length))),
            tensors(y=("FP32", np.arange(2 * length).reshape(2, length))),
        )
        for length in (1, 3, 1000, 100_000)
    ),
    _given(
        "no elements of any number",
        infer("variable", Given("x", "FP32", (1, 0), b"")),
        tensors(y=("FP32", np.empty((1, 0)))),
    ),
    _given(
        "no typed elements of any number",
        infer("variable", Given("x", "FP32", (2, 0), None, pb.InferTensorContents())),
        tensors(y=("FP32", np.empty((2, 0)))),
    ),
    _given(
        "a reshaped input",
        infer("reshaped", raw("x", "FP32", [[1, 2, 3, 4]])),
        tensors(y=("FP32", [[1, 2, 3, 4]])),
    ),
    _given(
        "an optional input that came",
        infer("optional", raw("x", "FP32", [[1]]), raw("bonus", "FP32", [[10]])),
        tensors(y=("FP32", [[11]])),
    ),
    _given(
        "an optional input that did not come",
        infer("optional", raw("x", "FP32", [[1]])),
        tensors(y=("FP32", [[1]])),
    ),
    _given(
        "a table's row",
        infer("lookup", raw("x", "INT64", [[2], [0]])),
        tensors(y=("INT64", [[LOOKUP[2]], [LOOKUP[0]]])),
    ),
    _refused("raw contents and typed ones for one input", _with_both(), "input 'x'"),
    _refused(
        "raw contents for one input and typed ones for another",
        infer("simple", typed("INPUT0", "INT32", _ONE), _PAIR[1]),
        "INPUT0",
    ),
    _refused("no contents", _with_raw(infer("identity_FP32", _X)), "input 'x'"),
    _refused(
        "raw contents for the first input alone",
        _with_raw(infer("simple", *_PAIR), _PAIR[0].raw or b""),
        "INPUT1",
    ),
    _refused("typed contents that are empty", _with_empty_contents(), "input 'x'"),
    case(
        "typed contents that are empty beside raw ones",
        ask(
            "ModelInfer",
            _with_empty_contents(_X.raw or b""),
            gives=_Y,
            differs=differences.EMPTY_CONTENTS,
        ),
    ),
    _refused(
        "too few bytes",
        infer("identity_FP32", Given("x", "FP32", (1, 3), bytes(8))),
        "8 bytes came.*needs 12",
    ),
    _refused(
        "too many bytes",
        infer("identity_FP32", Given("x", "FP32", (1, 3), bytes(16))),
        "16 bytes came.*needs 12",
    ),
    _refused("no input", infer("identity_FP32"), "needs input 'x'"),
    _refused("an input that is missing", infer("simple", _PAIR[0]), "needs input 'INPUT1'"),
    _refused(
        "an input that is required, beside an optional one",
        infer("optional", raw("bonus", "FP32", [[1]])),
        "needs input 'x'",
        differs=differences.MISSING_BESIDE_OPTIONAL,
    ),
    _refused("an input that came twice", infer("identity_FP32", _X, _X), "input 'x' came twice"),
    _refused(
        "an input that nobody knows",
        infer("identity_FP32", _X, raw("w", "FP32", [[1, 2, 3]])),
        "has no input 'w'",
    ),
    _refused(
        "an input of another name",
        infer("identity_FP32", raw("X", "FP32", [[1, 2, 3]])),
        "has no input 'X'; it takes 'x'",
    ),
    _refused(
        "another datatype",
        infer("identity_FP32", raw("x", "INT32", [[1, 2, 3]])),
        "'INT32' came, 'FP32' expected",
    ),
    _refused(
        "a datatype that nobody knows",
        infer("identity_FP32", Given("x", "FLOAT", (1, 3), bytes(12))),
        "'FLOAT' came",
    ),
    _refused("no datatype", infer("identity_FP32", Given("x", "", (1, 3), bytes(12))), "'FP32' expected"),
    _refused("a batch axis that is missing", _shaped(3), "shape \\[3\\] came, \\[batch, 3\\] expected"),
    _refused("an axis too many", _shaped(1, 1, 3), "shape \\[1, 1, 3\\] came"),
    _refused("no shape", _shaped(), "shape \\[\\] came"),
    _refused(
        "a dimension that does not fit",
        _shaped(1, 2, size=8),
        "shape \\[1, 2\\] came, \\[batch, 3\\] expected",
    ),
    _refused("a batch that is too large", _shaped(9, 3, size=108), "batch of 9 rows came.*1 to 8"),
    _refused("an empty batch", _shaped(0, 3, size=0), "batch of 0 rows came"),
    _refused("a negative batch", _shaped(-1, 3), "batch of -1 rows came"),
    _refused("a batch that no memory holds", _shaped(2**62, 3, size=0), "rows came"),
    _refused("the least batch of 64 bits", _shaped(-(2**63), 3, size=0), "rows came", only_ours=_DEADLY),
    _refused("a negative dimension", _shaped(1, -1, model="variable"), "shape \\[1, -1\\]"),
    _refused(
        "a dimension that overflows",
        _shaped(4, 2**62, size=0, model="variable"),
        "input 'x'",
        only_ours=_DEADLY,
    ),
    _refused(
        "the largest dimension of 64 bits",
        _shaped(1, 2**63 - 1, size=0, model="variable"),
        "input 'x'",
        only_ours=_DEADLY,
    ),
    _refused(
        "inputs with different batches",
        infer("simple", _PAIR[0], raw("INPUT1", "INT32", [[1] * 16] * 2)),
        "INPUT1.*2 rows",
    ),
    _refused(
        "the shape of the model and not of the configuration",
        _shaped(1, 2, 2, size=16, model="reshaped"),
        "shape \\[1, 2, 2\\] came",
    ),
    _refused(
        "another shape, without a batch axis",
        _shaped(3, 2, size=24, model="alone"),
        "shape \\[3, 2\\] came, \\[2, 3\\] expected",
    ),
    _refused(
        "a value that the model cannot take", infer("lookup", raw("x", "INT64", [[9]])), "", Code.INTERNAL
    ),
    _refused("no such model", infer("simpel", *_PAIR), "did you mean 'simple'", Code.NOT_FOUND),
    _refused("no model's name", infer("", _X), "", Code.NOT_FOUND),
    _refused("an empty message", pb.ModelInferRequest(), "", Code.NOT_FOUND),
    _refused(
        "a model that was never loaded",
        infer("never_asked", _X),
        "never_asked",
        Code.UNAVAILABLE,
        differs=differences.NEVER_LOADED,
    ),
    *(
        _given(
            f"version {version!r}",
            infer("every_version", raw("x", "FP32", [[1]]), version=version),
            tensors(y=("FP32", [[1 + number]])),
        )
        for version, number in (("", 3), ("1", 1), ("2", 2), ("3", 3))
    ),
    _given(
        "the usual policy serves the newest version",
        infer("latest_version", raw("x", "FP32", [[1]])),
        tensors(y=("FP32", [[4]])),
    ),
    _given(
        "no version asks for the newest of those that were chosen",
        infer("chosen_versions", raw("x", "FP32", [[1]])),
        tensors(y=("FP32", [[4]])),
    ),
    *(
        _refused(
            f"version {version!r} of {model}",
            infer(model, raw("x", "FP32", [[1]]), version=version),
            "version",
            code,
            differs=differs,
        )
        for model, version, code, differs in (
            ("every_version", "4", Code.NOT_FOUND, None),
            ("chosen_versions", "2", Code.NOT_FOUND, None),
            ("latest_version", "1", Code.NOT_FOUND, None),
            ("latest_two", "1", Code.NOT_FOUND, None),
            ("every_version", "abc", Code.INVALID_ARGUMENT, None),
            ("every_version", "-1", Code.INVALID_ARGUMENT, None),
            ("every_version", "9" * 30, Code.NOT_FOUND, differences.VERSION_TOO_LARGE),
            ("every_version", "1x", Code.INVALID_ARGUMENT, differences.LOOSE_VERSION),
            ("every_version", " 1", Code.INVALID_ARGUMENT, differences.LOOSE_VERSION),
            ("every_version", "0", Code.INVALID_ARGUMENT, differences.VERSION_ZERO),
        )
    ),
]
