"""Made-up rows for a model of which nothing is known but its tensors.

They prove things about a model (has it a batch axis, does each row get its own answer) and warm it
up. A model may refuse values (an index that is out of range) or sizes (a picture smaller than its
kernel), so ever more cautious recipes are tried until it accepts one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import ExecutionError
from headrace_engines.spec import ANY, TensorSpec

Execute = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]
"""Runs arrays in the order of the inputs; raises ExecutionError."""

_ANY_SIZES = (8, 1, 32, 224)
_INTEGER_BOUNDS = (10, 2, 1)


class Floats(Enum):
    """How floating-point values are drawn."""

    NORMAL = auto()
    UNIFORM = auto()
    ONE = auto()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How rows are made up.

    Integers, and strings as their decimal digits, lie below `integer_bound`; dimensions that each
    request chooses are `any_size`.
    """

    floats: Floats
    integer_bound: int
    any_size: int

    def rows(
        self, tensors: Sequence[TensorSpec], rows: int | None, random: np.random.Generator
    ) -> list[NDArray[Any]]:
        """Return an array for each tensor, with `rows` rows; None for tensors without a batch axis."""
        lead = () if rows is None else (rows,)
        return [self._draw((*lead, *self._sizes(tensor)), tensor.dtype, random) for tensor in tensors]

    def _sizes(self, tensor: TensorSpec) -> tuple[int, ...]:
        return tuple(self.any_size if dim == ANY else dim for dim in tensor.dims)

    def _draw(
        self, shape: tuple[int, ...], dtype: np.dtype[np.generic], random: np.random.Generator
    ) -> NDArray[Any]:
        if is_floating(dtype):
            return self._draw_floats(shape, random).astype(dtype)
        integers = random.integers(self.integer_bound, size=shape)
        if integers.ndim:
            integers[-1:] = self.integer_bound - 1  # so that a recipe that was accepted once always is
        return integers.astype(np.str_).astype(dtype) if dtype == np.dtype(object) else integers.astype(dtype)

    def _draw_floats(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
        match self.floats:
            case Floats.NORMAL:
                return random.standard_normal(shape)
            case Floats.UNIFORM:
                return random.random(shape)
            case Floats.ONE:
                return np.ones(shape)


def is_floating(dtype: np.dtype[np.generic]) -> bool:
    """Whether values of this dtype are rounded; NumPy alone does not count BF16 among them."""
    return dtype.kind == "f" or dtype == np.dtype(ml_dtypes.bfloat16)


def accepted_recipe(
    tensors: Sequence[TensorSpec],
    rows: int | None,
    execute: Execute,
    floats: Sequence[Floats] = tuple(Floats),
) -> Recipe:
    """Return the first recipe whose rows the model executes.

    Raises ExecutionError with what the model said last if it executes none.
    """
    refusal = ExecutionError("there is nothing to try")
    for recipe in _recipes(tensors, floats):
        try:
            execute(recipe.rows(tensors, rows, np.random.default_rng(0)))
        except ExecutionError as error:
            refusal = error
        else:
            return recipe
    raise refusal


def _recipes(tensors: Sequence[TensorSpec], floats: Sequence[Floats]) -> Iterator[Recipe]:
    """Yield the recipes that differ for these tensors, the most varied values first."""
    sizes = _ANY_SIZES if any(ANY in tensor.dims for tensor in tensors) else _ANY_SIZES[:1]
    rounded = [is_floating(tensor.dtype) for tensor in tensors]
    bounds = _INTEGER_BOUNDS[:1] if all(rounded) else _INTEGER_BOUNDS
    for kind in floats if any(rounded) else floats[:1]:
        for bound in bounds:
            for size in sizes:
                yield Recipe(kind, bound, size)
