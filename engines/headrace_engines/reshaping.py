"""The same elements in another shape: callers see a tensor's declared dims, and the engine its own.

Only views are made, so staging costs no copy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from headrace_engines.spec import ANY


def same_elements(dims: Sequence[int], other: Sequence[int]) -> bool:
    """Whether every shape that fits `dims` has one and only one of the same elements that fits `other`.

    That is so if both leave as many sizes open, and the fixed ones before, between and after these
    have the same products.
    """
    return _products(dims) == _products(other)


def reshaped(shape: Sequence[int], dims: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that fits `other`, for one that fits `dims`; see `same_elements`."""
    sizes = iter([size for size, dim in zip(shape, dims, strict=True) if dim == ANY])
    return tuple(next(sizes) if dim == ANY else dim for dim in other)


def _products(dims: Sequence[int]) -> list[int]:
    """Return the products of the fixed sizes around those that are open."""
    opened = [-1, *(position for position, dim in enumerate(dims) if dim == ANY), len(dims)]
    return [math.prod(dims[start + 1 : end]) for start, end in itertools.pairwise(opened)]
