"""What a model takes and gives: the facts that every room agrees on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ANY = -1
"""A dimension that each request chooses."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    `dims` are those of one row: the batch axis, where the model has one, is left out. `dtype` is
    NumPy's (ml_dtypes' for BF16); `object` stands for strings, which travel as BYTES. An input that
    `is_optional` may be left out of a request.
    """

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int, ...]
    is_optional: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether every row has the same number of bytes."""
        return self.dtype != np.dtype(object) and ANY not in self.dims

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; only for a fixed tensor."""
        if not self.is_fixed:
            raise ValueError(f"tensor {self.name!r} has no fixed size")
        return math.prod(self.dims) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's inputs and outputs, and the batches that it runs.

    `max_batch_size` is the most rows in one execution; 0 says that the model has no batch axis, so
    that every request is executed alone and its shapes are the tensors' `dims` as they stand.
    `batch_sizes` are those that it runs best at, ascending, for warming up.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    batch_sizes: tuple[int, ...] = ()
    takes_any_bytes: bool = False
    """Whether the elements of strings may be any bytes; else they are UTF-8 text."""
    takes_arrays: bool = False
    """Whether every execution gets arrays of its own, even where all rows are of one size."""

    @property
    def has_batch_axis(self) -> bool:
        """Whether axis 0 of every tensor counts rows."""
        return self.max_batch_size > 0

    @property
    def is_staged(self) -> bool:
        """Whether rows go through staging buffers; else each execution gets arrays of its own."""
        if self.takes_arrays or not self.has_batch_axis:
            return False
        return all(tensor.is_fixed and not tensor.is_optional for tensor in self.inputs)
