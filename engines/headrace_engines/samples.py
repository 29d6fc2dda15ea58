"""Made-up inputs for a model of which nothing is known but its spec.

They prove things about a model (has it a batch axis, does each row get its own answer) and warm it
up. Dimensions that each request chooses are given a small size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.spec import ANY, TensorSpec

Fill = Callable[[tuple[int, ...], np.dtype[np.generic]], NDArray[Any]]
"""Makes one array of a shape and a dtype."""


def shape_of(tensor: TensorSpec, rows: int | None, any_size: int = 1) -> tuple[int, ...]:
    """Return a shape that fits the tensor, with `rows` as axis 0; None for a model without batch axis."""
    dims = tuple(any_size if dim == ANY else dim for dim in tensor.dims)
    return dims if rows is None else (rows, *dims)


def made_up(
    tensors: Sequence[TensorSpec], rows: int | None, fill: Fill, any_size: int = 1
) -> list[NDArray[Any]]:
    """Return one array for each tensor, `rows` rows each, with what `fill` puts in."""
    return [fill(shape_of(tensor, rows, any_size), tensor.dtype) for tensor in tensors]


def zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """Fill with zeros, strings with the empty string."""
    return np.full(shape, "", dtype) if dtype == np.dtype(object) else np.zeros(shape, dtype)


def ones(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """Fill with ones, strings with the digit."""
    return np.full(shape, "1", dtype) if dtype == np.dtype(object) else np.ones(shape, dtype)
