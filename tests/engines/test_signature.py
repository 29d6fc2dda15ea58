from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_engines.errors import DeclarationError, ExecutionError
from headrace_engines.runtime.signature import Declared, best_batch_sizes, model_spec
from headrace_engines.spec import ANY

FLOAT = np.dtype(np.float32)


def declared(*shapes: tuple[int | str | None, ...]) -> list[Declared]:
    return [Declared(f"t{i}", FLOAT, shape) for i, shape in enumerate(shapes)]


def never(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    raise AssertionError("needs no proof")


def refuses(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    raise ExecutionError("no")


def echo(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    return arrays


@pytest.mark.parametrize(
    ("inputs", "outputs", "execute", "batched"),
    [
        pytest.param([("N", 3)], [("N", 3)], never, True, id="one symbol everywhere"),
        pytest.param([("N", 3), ("N",)], [("N",), ("N", 2)], never, True, id="several tensors"),
        pytest.param([("N", 3), (None, 3)], [("N", 3), (None, 3)], echo, True, id="unnamed, and counts rows"),
        pytest.param([(None, 3)], [(None, 3)], echo, True, id="unnamed everywhere"),
        pytest.param([(None, 3)], [()], echo, True, id="rank unknown, and counts rows"),
        pytest.param([("N", 3)], [("M", 3)], echo, True, id="another name, and counts rows"),
        pytest.param([("N", 3)], [(None, 3)], lambda a: [a[0][:1]], False, id="does not count rows"),
        pytest.param([("N", 3)], [()], lambda a: [np.zeros(())], False, id="scalar"),
        pytest.param([("N", 3)], [(None, 3)], refuses, False, id="cannot be proved"),
        pytest.param([("N", 3)], [(1, 3)], never, False, id="fixed output"),
        pytest.param([("N", 3)], [("N", 3), (4,)], never, False, id="one fixed output"),
        pytest.param([(2, 3)], [("N", 3)], never, False, id="fixed input"),
        pytest.param([("N", 3), ("M", 3)], [("N", 3)], never, False, id="two symbols"),
        pytest.param([("N", 3), ()], [("N", 3)], never, False, id="scalar input"),
        pytest.param([], [("N", 3)], never, False, id="no inputs"),
    ],
)
def test_batch_axis(inputs, outputs, execute, batched):
    spec = model_spec(declared(*inputs), declared(*outputs), 8, execute)
    assert spec.max_batch_size == (8 if batched else 0)
    first_dim = 1 if batched else 0
    for tensor, shape in zip(spec.inputs, inputs, strict=True):
        assert tensor.dims == tuple(dim if isinstance(dim, int) else ANY for dim in shape[first_dim:])


def test_an_output_of_unknown_rank_gets_the_rank_that_it_shows():
    spec = model_spec(declared(("N", 2, 3)), declared(()), 8, echo)
    assert spec.outputs[0].dims == (ANY, ANY)


def test_without_a_batch_axis_too_if_the_file_does_not_tell_it():
    (untold,) = declared(())
    output = replace(untold, is_untold=True)
    spec = model_spec(declared((2, 3)), [output], 8, echo)
    assert spec.outputs[0].dims == (ANY, ANY)
    with pytest.raises(DeclarationError, match="output 't0': the model's file does not tell its shape"):
        model_spec(declared((2, 3)), [output], 8, refuses)
    assert model_spec(declared((2, 3)), [untold], 8, never).outputs[0].dims == ()


def test_a_model_that_refuses_zero_is_tried_with_other_values():
    def positive_only(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if (arrays[0] <= 0).any():
            raise ExecutionError("logarithm of nothing")
        return arrays

    assert model_spec(declared((None, 3)), declared((None, 3)), 8, positive_only).max_batch_size == 8


@given(st.integers(1, 5000))
def test_batch_sizes_double_up_to_the_largest(largest):
    sizes = best_batch_sizes(largest)
    assert sizes[0] == 1
    assert sizes[-1] == largest
    assert all(a < b <= 2 * a for a, b in pairwise(sizes))
