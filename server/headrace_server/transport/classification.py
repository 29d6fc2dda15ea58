"""The classification extension: an output's largest values as text, "value:index" or "value:index:label".

The form is Triton's: real values with six decimals, whole ones as they are, equal values in the order of
their indices, and no more entries than there are values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MOST_CLASSES: Final = 1_000_000
"""Of an answer: each is a text, and makes those wait that the engine answers next."""
CLASSIFIABLE: Final = frozenset(
    map(np.dtype, ("<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8", "<f4", "<f8"))
)
"""What has an order, and one way to be written."""


class TooManyClasses(ValueError):
    """More is asked for than an answer can tell; the text says how much, and what is allowed."""


def top_classes(
    outputs: NDArray[Any], count: int, labels: Sequence[str], *, has_batch_axis: bool
) -> NDArray[np.object_]:
    """Return the `count` largest values of each row as text, of shape (rows, count) or (count,).

    A class without a label is written without. Raises TooManyClasses.
    """
    rows = outputs.reshape(len(outputs), -1) if has_batch_axis else outputs.reshape(1, -1)
    shape = (len(rows), min(count, rows.shape[1]))
    if math.prod(shape) > _MOST_CLASSES:
        raise TooManyClasses(
            f"{shape[1]} classes of {shape[0]} rows were asked for, an answer tells at most {_MOST_CLASSES}"
        )
    written = np.array([_written(row, count, labels) for row in rows], object).reshape(shape)
    return written if has_batch_axis else written[0]


def _written(row: NDArray[Any], count: int, labels: Sequence[str]) -> list[str]:
    form = "%f" if row.dtype.kind == "f" else "%d"
    texts = []
    for index in _largest(row, count).tolist():
        label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
        texts.append(f"{form % row[index]}:{index}{label}")
    return texts


def _largest(row: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Return the indices of the largest values, largest first; what is no number comes last."""
    values = np.where(np.isnan(row), -np.inf, row) if row.dtype.kind == "f" else row
    # Sorted as they stand, since not every whole number has a negative; reversed twice, so that of equal
    # ones the first stays first.
    ascending = np.argsort(values[::-1], kind="stable")
    return len(row) - 1 - ascending[::-1][:count]
