from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace_engines.agreement import agree
from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import ModelFileError
from headrace_engines.spec import ModelSpec, TensorSpec

FP32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)


def tensor(name: str, *dims: int, dtype: Any = FP32, optional: bool = False) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), dims, optional)


def said(name: str, *dims: int, dtype: Any = None, **more: Any) -> DeclaredTensor:
    return DeclaredTensor(name, None if dtype is None else np.dtype(dtype), dims, **more)


def named(name: str, **more: Any) -> DeclaredTensor:
    return DeclaredTensor(name, None, None, **more)


BATCHED = ModelSpec((tensor("x", -1, 4),), (tensor("y", 3), tensor("z", dtype=INT64)), 8, (1, 8))
WHOLE = ModelSpec((tensor("x", -1, -1, 4),), (tensor("y", -1, 3), tensor("z", -1, dtype=INT64)), 0)
ALONE = ModelSpec((tensor("x", 1, 3),), (tensor("y", 1, 2),), 0)
FIXED = ModelSpec((tensor("x", 16, 3),), (tensor("y", 16, 2),), 0)
WITH_DEFAULT = ModelSpec((tensor("x", 2), tensor("bias", 2, optional=True)), (tensor("y", 2),), 0)


@pytest.mark.parametrize(
    ("found", "declaration", "expected"),
    [
        (BATCHED, Declaration(), BATCHED),
        (BATCHED, Declaration(max_batch_size=8), BATCHED),
        (BATCHED, Declaration(max_batch_size=0), WHOLE),
        pytest.param(BATCHED, Declaration((said("x", -1, -1, 4),)), WHOLE, id="dims with the batch axis"),
        (
            BATCHED,
            Declaration((said("x", 2, 4),)),
            ModelSpec((tensor("x", 2, 4),), BATCHED.outputs, 8, (1, 8)),
        ),
        (
            BATCHED,
            Declaration(outputs=(named("z"),)),
            ModelSpec(BATCHED.inputs, BATCHED.outputs[1:], 8, (1, 8)),
        ),
        pytest.param(
            BATCHED,
            Declaration((said("x", 4, 2, model_dims=(2, 4)),)),
            ModelSpec((tensor("x", 2, 4),), BATCHED.outputs, 8, (1, 8)),
            id="the model's dims",
        ),
        (
            ALONE,
            Declaration(max_batch_size=1),
            ModelSpec((tensor("x", 3),), (tensor("y", 2),), 1, (1,)),
        ),
        (ALONE, Declaration(max_batch_size=0), ALONE),
        (ALONE, Declaration((said("x", 1, 3, dtype=FP32),)), ALONE),
        pytest.param(
            WITH_DEFAULT,
            Declaration((named("x"), named("bias", is_optional=True))),
            WITH_DEFAULT,
            id="optional",
        ),
        pytest.param(
            WITH_DEFAULT,
            Declaration((named("x"), named("bias"))),
            ModelSpec((tensor("x", 2), tensor("bias", 2)), WITH_DEFAULT.outputs, 0),
            id="replaced by every caller",
        ),
        pytest.param(
            WITH_DEFAULT,
            Declaration((named("x"),)),
            ModelSpec((tensor("x", 2),), WITH_DEFAULT.outputs, 0),
            id="left to the file",
        ),
    ],
)
def test_what_was_declared_is_served(found: ModelSpec, declaration: Declaration, expected: ModelSpec) -> None:
    assert agree(found, declaration) == expected


@pytest.mark.parametrize(
    ("found", "declaration", "told"),
    [
        (
            BATCHED,
            Declaration((named("xx"),)),
            "input 'xx': the model has 'x' alone; did you mean 'x'?; "
            "input 'x': the model needs it, the configuration does not list it",
        ),
        (
            ModelSpec((tensor("x", 2),), (tensor("y"),), 0),
            Declaration(outputs=(said("y", 2),)),
            "output 'y': the model has FP32 [], the configuration says FP32 [2]",
        ),
        (BATCHED, Declaration(outputs=(named("answer"),)), "output 'answer': the model has 'y', 'z' alone"),
        (
            BATCHED,
            Declaration((said("x", -1, 4, dtype=INT64),)),
            "input 'x': the model has FP32 [-1, 4], the configuration says INT64 [-1, 4]",
        ),
        (
            BATCHED,
            Declaration((said("x", -1, 5),)),
            "input 'x': the model has FP32 [-1, 4], the configuration says FP32 [-1, 5]; "
            "the model fixes what -1 would leave open",
        ),
        (
            BATCHED,
            Declaration((said("x", -1, -1, 4),), max_batch_size=8),
            "the configuration says FP32 [-1, -1, 4]; with a max_batch_size, dims leave the batch axis out",
        ),
        (
            BATCHED,
            Declaration(outputs=(said("y", 3),), max_batch_size=0),
            "output 'y': the model has FP32 [-1, 3], the configuration says FP32 [3]; "
            "without a max_batch_size, dims are the whole shape",
        ),
        (
            BATCHED,
            Declaration((named("x", is_optional=True),)),
            "input 'x': it is optional in the configuration, and the model needs it",
        ),
        (
            FIXED,
            Declaration(max_batch_size=8),
            "max_batch_size: the configuration says 8, and the model has no batch axis: "
            "'x' is [16, 3], whose axis 0 is not left open; write max_batch_size: 0",
        ),
        (FIXED, Declaration(max_batch_size=1), "max_batch_size: the configuration says 1"),
        (
            WHOLE,
            Declaration(max_batch_size=2),
            "axis 0 does not count the rows of every tensor",
        ),
        pytest.param(
            ModelSpec((tensor("x", 2), tensor("w", 2)), (tensor("y", 2),), 0),
            Declaration((said("x", 3), said("w", 4)), (said("y", 5),)),
            "[3]; input 'w': the model has FP32 [2], the configuration says FP32 [4]; output 'y'",
            id="all at once",
        ),
    ],
)
def test_what_differs_is_told(found: ModelSpec, declaration: Declaration, told: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        agree(found, declaration)
    assert told in str(caught.value)
