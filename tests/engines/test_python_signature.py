from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import ModelFileError
from headrace_engines.python_model import Tensor
from headrace_engines.runtime.python_signature import is_decoupled, spec_of
from headrace_engines.spec import ANY, ModelSpec, TensorSpec

FP32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
X, Y = TensorSpec("x", FP32, (2,)), TensorSpec("y", INT64, (ANY,))
SAID: dict[str, Any] = {"inputs": [Tensor("x", "FP32", [2])], "outputs": (Tensor("y", "INT64", [-1]),)}
GIVEN = Declaration((DeclaredTensor("x", FP32, (2,)),), (DeclaredTensor("y", INT64, (ANY,)),))


def model(**attributes: Any) -> type[Any]:
    return type("Model", (), attributes)


def inputs(*tensors: DeclaredTensor, **rest: Any) -> Declaration:
    return Declaration(inputs=tensors, **rest)


@pytest.mark.parametrize(
    ("said", "given", "spec"),
    [
        pytest.param(SAID, Declaration(), ModelSpec((X,), (Y,), 0), id="the class"),
        pytest.param({}, GIVEN, ModelSpec((X,), (Y,), 0), id="the configuration"),
        pytest.param(SAID, GIVEN, ModelSpec((X,), (Y,), 0), id="both"),
        pytest.param(
            {**SAID, "max_batch_size": 8}, Declaration(), ModelSpec((X,), (Y,), 8), id="rows by the class"
        ),
        pytest.param(SAID, Declaration(max_batch_size=8), ModelSpec((X,), (Y,), 8), id="rows by the other"),
        pytest.param(
            {**SAID, "max_batch_size": 8},
            Declaration(max_batch_size=8),
            ModelSpec((X,), (Y,), 8),
            id="rows by both",
        ),
        pytest.param(
            {**SAID, "max_batch_size": 500}, Declaration(), ModelSpec((X,), (Y,), 64), id="the server's limit"
        ),
        pytest.param(
            SAID, inputs(DeclaredTensor("x", None, None)), ModelSpec((X,), (Y,), 0), id="a name alone"
        ),
        pytest.param(
            SAID,
            inputs(DeclaredTensor("x", None, None, is_optional=True)),
            ModelSpec((TensorSpec("x", FP32, (2,), is_optional=True),), (Y,), 0),
            id="optional by the configuration",
        ),
        pytest.param(
            {**SAID, "inputs": [Tensor("x", "FP32", [2], optional=True)]},
            Declaration(),
            ModelSpec((TensorSpec("x", FP32, (2,), is_optional=True),), (Y,), 0),
            id="optional by the class",
        ),
    ],
)
def test_what_both_say_is_put_together(said: dict[str, Any], given: Declaration, spec: ModelSpec) -> None:
    assert spec_of(model(**said), given, 64) == replace(spec, takes_any_bytes=True)


@pytest.mark.parametrize(
    ("said", "given", "message"),
    [
        ({}, Declaration(), r"no inputs: inputs = \[Tensor\(.* expected in the class"),
        ({**SAID, "outputs": []}, Declaration(), "no outputs"),
        ({**SAID, "inputs": "x"}, Declaration(), "inputs = 'x': a list of Tensor expected"),
        ({**SAID, "inputs": ["x"]}, Declaration(), r"inputs = \['x'\]: a list of Tensor expected"),
        (
            {**SAID, "inputs": [Tensor("x", "FP32", [2])] * 2},
            Declaration(),
            "inputs: x, x: each name is expected once",
        ),
        (SAID, inputs(DeclaredTensor("z", FP32, (2,))), "the class has x, the configuration z"),
        (
            SAID,
            inputs(DeclaredTensor("x", INT64, (2,))),
            r"input 'x': the class says FP32 \[2\], the configuration INT64 \[2\]: both must agree",
        ),
        (SAID, inputs(DeclaredTensor("x", None, (3,))), r"the configuration FP32 \[3\]"),
        (SAID, inputs(DeclaredTensor("x", FP32, (1, 2), (2,))), "no reshape"),
        (
            {},
            inputs(DeclaredTensor("x", FP32, None)),
            "neither the class nor the configuration says all of it",
        ),
        (
            {**SAID, "max_batch_size": 4},
            Declaration(max_batch_size=8),
            "the class says 4, the configuration 8",
        ),
        (
            {**SAID, "max_batch_size": 0},
            Declaration(max_batch_size=8),
            "the class says 0, the configuration 8",
        ),
        ({**SAID, "max_batch_size": -1}, Declaration(), "max_batch_size = -1: a whole number expected"),
        ({**SAID, "max_batch_size": "8"}, Declaration(), "max_batch_size = '8': a whole number expected"),
    ],
)
def test_what_does_not_agree_is_told(said: dict[str, Any], given: Declaration, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        spec_of(model(**said), given, 64)


@pytest.mark.parametrize(
    ("said", "given", "decoupled"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"decoupled": True}, False, True),
        ({"decoupled": True}, True, True),
    ],
)
def test_either_may_say_that_it_is_decoupled(said: dict[str, Any], given: bool, decoupled: bool) -> None:
    assert is_decoupled(model(**said), Declaration(is_decoupled=given)) is decoupled


@pytest.mark.parametrize(
    ("said", "given", "message"), [(False, True, "both must agree"), ("yes", False, "True or False expected")]
)
def test_a_wrong_word_on_decoupling_is_told(said: object, given: bool, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        is_decoupled(model(decoupled=said), Declaration(is_decoupled=given))
