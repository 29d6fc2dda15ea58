from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.reshaping import ReshapingEngine, reshaped, reshapes, same_elements
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.spec import ANY

FP32 = np.dtype(np.float32)
DIMS = st.lists(st.sampled_from([ANY, 1, 2, 3, 4, 6]), max_size=4)


@pytest.mark.parametrize(
    ("dims", "other", "same"),
    [
        ((), (1,), True),
        ((4,), (2, 2), True),
        ((4,), (2, 3), False),
        ((ANY, 4), (ANY, 2, 2), True),
        ((ANY, 4), (2, ANY, 2), False),
        ((ANY,), (4,), False),
        ((ANY, ANY), (ANY, 1, ANY), True),
    ],
)
def test_whether_shapes_hold_the_same_elements(
    dims: tuple[int, ...], other: tuple[int, ...], same: bool
) -> None:
    assert same_elements(dims, other) is same_elements(other, dims) is same


@given(DIMS, DIMS, st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_a_shape_keeps_its_elements_and_comes_back(
    dims: list[int], other: list[int], sizes: list[int]
) -> None:
    if not same_elements(dims, other):
        return
    chosen = iter(sizes)
    shape = tuple(next(chosen) if dim == ANY else dim for dim in dims)
    there = reshaped(shape, dims, other)
    assert math.prod(there) == math.prod(shape)
    assert reshaped(there, other, dims) == shape


def test_callers_see_other_dims_of_the_same_memory(models) -> None:
    x = DeclaredTensor("x", FP32, (2, 2), (4,))
    y = DeclaredTensor("y", FP32, (3, 1), (3,))
    declaration = Declaration((x,), (y,))
    assert reshapes(declaration)
    assert not reshapes(Declaration((DeclaredTensor("x", FP32, (4,), (4,)),)))
    inner = OnnxRuntimeEngine(models.mlp(), max_batch_size=4, declaration=declaration)
    engine = ReshapingEngine(inner, declaration)
    assert [tensor.dims for tensor in (*engine.spec.inputs, *engine.spec.outputs)] == [(2, 2), (3, 1)]
    rows = np.random.default_rng(0).standard_normal((2, 2, 2)).astype(np.float32)
    (expected,) = inner.run([rows.reshape(2, 4)])
    (ran,) = engine.run([rows])
    np.testing.assert_array_equal(ran, expected.reshape(2, 3, 1))
    for one in (engine, engine.replicate()):
        (buffer,) = one.inputs(0)
        assert buffer.shape == (4, 2, 2)
        buffer[:2] = rows
        one.submit(0, 2)
        (answer,) = one.wait(0)
        np.testing.assert_allclose(answer, ran, rtol=1e-6)
    assert np.shares_memory(engine.inputs(0)[0], inner.inputs(0)[0])
    engine.close()


def test_open_sizes_are_carried_over(models) -> None:
    path = models.unary("Identity", TensorProto.FLOAT, ("N", "L"), ("N", "L"))
    declaration = Declaration((DeclaredTensor("x", FP32, (ANY, 1), (ANY,)),))
    engine = ReshapingEngine(OnnxRuntimeEngine(path, declaration=declaration), declaration)
    (answer,) = engine.run([np.ones((2, 5, 1), np.float32)])
    assert answer.shape == (2, 5)
    engine.close()
