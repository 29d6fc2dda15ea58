"""Whether arrays are what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import ExecutionError
from headrace_engines.spec import ANY, ModelSpec, TensorSpec


def check_arrays(spec: ModelSpec, arrays: Sequence[NDArray[Any] | None]) -> None:
    """Raise ExecutionError unless the arrays are what the spec asks for, with one number of rows."""
    if len(arrays) != len(spec.inputs):
        raise ExecutionError(f"{len(arrays)} arrays came, expected {len(spec.inputs)}")
    counts = set()
    for tensor, array in zip(spec.inputs, arrays, strict=True):
        if array is None and tensor.is_optional:
            continue
        if array is None or array.dtype != tensor.dtype or not _fits(spec, tensor, array):
            came = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            dims = [*(["rows"] if spec.has_batch_axis else []), *tensor.dims]
            raise ExecutionError(f"input {tensor.name!r}: {came} came, expected {tensor.dtype} {dims}")
        counts.add(len(array) if spec.has_batch_axis else 1)
    if len(counts) > 1:
        raise ExecutionError(f"inputs of {' and '.join(map(str, sorted(counts)))} rows came together")


def _fits(spec: ModelSpec, tensor: TensorSpec, array: np.ndarray[Any, Any]) -> bool:
    dims = array.shape[1:] if spec.has_batch_axis else array.shape
    return array.ndim == len(tensor.dims) + spec.has_batch_axis and all(
        size == wanted or wanted == ANY for size, wanted in zip(dims, tensor.dims, strict=True)
    )
