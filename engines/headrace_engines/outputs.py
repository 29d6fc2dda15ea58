"""What answers show of an output: values, probabilities, scores or classes, and whether they tell rows apart.

Arrays hold an answer a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Answers = Sequence[NDArray[Any]]
"""One array per output of the model; axis 0 counts rows."""

ROUNDING: Final = 2.0**-20
"""What rounding to FP32 leaves of numbers, in parts of their size, after some operations."""

_SUM_TOLERANCE: Final = 1e-3


def floats(answers: Answers) -> list[int]:
    """Return the indices of the outputs of floating point that hold anything."""
    return [index for index, array in enumerate(answers) if array.dtype.kind == "f" and array.size]


def width(array: NDArray[Any]) -> int:
    """Return the values of a row, 0 where a row is no vector."""
    if array.ndim == 1:
        return 1
    return int(array.shape[1]) if array.ndim == 2 else 0


def are_shares(array: NDArray[Any]) -> bool:
    """Whether all values lie within 0 and 1."""
    return bool(np.all((array >= 0) & (array <= 1)))


def are_distributions(array: NDArray[Any], axis: int = 1) -> bool:
    """Whether what stands along the axis is the probabilities of several classes."""
    return (
        array.dtype.kind == "f"
        and array.ndim > axis
        and array.shape[axis] > 1
        and are_shares(array)
        and bool(np.allclose(array.sum(axis=axis), 1, atol=_SUM_TOLERANCE))
    )


def are_classes(array: NDArray[Any]) -> bool:
    """Whether each row is the number or the name of a class."""
    return array.dtype.kind in "iuOUS" and width(array) == 1


def tell_classes(answers: Answers) -> bool:
    """Whether an output is classes, or probabilities of several."""
    return any(are_classes(array) or (width(array) > 1 and are_distributions(array)) for array in answers)


def differ(array: NDArray[Any]) -> bool:
    """Whether rows are answered differently, by more than what FP32 rounds."""
    if not array.size:
        return False
    if array.dtype.kind != "f":
        return bool((array != array[:1]).any())
    flat = np.asarray(array, np.float64).reshape(len(array), -1)
    finite = np.where(np.isfinite(flat), flat, 0.0)
    spread, size = np.ptp(finite, axis=0), np.abs(finite).max(axis=0)
    return bool((spread > ROUNDING * size).any() or (np.isfinite(flat) != np.isfinite(flat[:1])).any())
