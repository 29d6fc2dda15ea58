"""Arrays that an engine on a GPU is given: checked, and executed in halves where memory is short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import ExecutionError, MemoryExhausted
from headrace_engines.runtime.lifetimes import let_go
from headrace_engines.spec import ANY, ModelSpec, TensorSpec

_log = logging.getLogger(__name__)

_Arrays = Sequence[NDArray[Any] | None]
_Answers = tuple[NDArray[Any], ...]


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


def in_halves(spec: ModelSpec, execute: Callable[[_Arrays], _Answers], arrays: _Arrays) -> _Answers:
    """Execute arrays that were checked; where memory does not suffice, each half of their rows by itself.

    The next ones are tried whole again, since their rows may be smaller. Raises MemoryExhausted where a row
    alone is too much, or halves give answers that do not make a whole.
    """
    rows = max((len(array) for array in arrays if array is not None), default=0) if spec.has_batch_axis else 0
    try:
        return execute(arrays)
    except MemoryExhausted as error:
        if rows < 2:
            raise
        let_go(error)
        _log.warning("%d rows at once are too many for a GPU's memory: in halves: %s", rows, error)
        shortage = error
    half = rows // 2
    halves = [
        in_halves(spec, execute, [None if array is None else array[part] for array in arrays])
        for part in (slice(0, half), slice(half, rows))
    ]
    first, second = halves
    if any(
        len(one) != half or len(other) != rows - half or one.shape[1:] != other.shape[1:]
        for one, other in zip(first, second, strict=True)
    ):
        raise shortage
    return tuple(np.concatenate(pair) for pair in zip(first, second, strict=True))
