"""Whether what a program answers is what its outputs are declared to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headrace_engines.errors import ExecutionError
from headrace_engines.spec import ANY, ModelSpec, TensorSpec

_OBJECT = np.dtype(object)
_TEXT_KINDS = "OSTU"
"""NumPy's kinds that hold strings: objects, bytes, variable-width and fixed-width text."""


def checked(answers: Mapping[str, ArrayLike], spec: ModelSpec, rows: int | None) -> tuple[NDArray[Any], ...]:
    """Return the answers as arrays in the order of the outputs, converted where nothing can be lost.

    `rows` is how many each needs, None where any number will do. Raises ExecutionError naming the output,
    what came and what was expected.
    """
    if answers.keys() != {tensor.name for tensor in spec.outputs}:
        expected = ", ".join(repr(tensor.name) for tensor in spec.outputs)
        came = ", ".join(map(repr, answers)) or "nothing"
        raise ExecutionError(f"the program answered {came}, and its outputs are {expected}")
    lead: tuple[int, ...] = () if not spec.has_batch_axis else (ANY if rows is None else rows,)
    return tuple(_checked(answers[tensor.name], tensor, lead) for tensor in spec.outputs)


def _checked(answer: ArrayLike, tensor: TensorSpec, lead: tuple[int, ...]) -> NDArray[Any]:
    try:
        # Lists of strings must not become NumPy's own text, which loses zero bytes at the end.
        listed = tensor.dtype == _OBJECT and not isinstance(answer, np.ndarray)
        array = np.asarray(answer, _OBJECT if listed else None)
    except ValueError as error:  # a list whose rows differ in length
        raise ExecutionError(f"output {tensor.name!r}: no array came: {error}") from None
    expected = (*lead, *tensor.dims)
    if len(array.shape) != len(expected) or any(
        dim not in (came, ANY) for came, dim in zip(array.shape, expected, strict=True)
    ):
        dims = ", ".join("any" if dim == ANY else str(dim) for dim in expected)
        raise ExecutionError(
            f"output {tensor.name!r}: shape {list(array.shape)} came, [{dims}] expected"
            + (", rows first" if lead else "")
        )
    return _converted(array, tensor)


def _converted(array: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    if tensor.dtype == _OBJECT:
        return _strings(array, tensor)
    if array.dtype == tensor.dtype:
        return array
    if array.dtype.kind in _TEXT_KINDS or not np.can_cast(array.dtype, tensor.dtype, "safe"):
        raise ExecutionError(
            f"output {tensor.name!r}: dtype {array.dtype} came, {tensor.dtype} expected, or what converts to "
            "it without loss"
        )
    return array.astype(tensor.dtype)


def _strings(array: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    if array.dtype.kind not in _TEXT_KINDS:
        raise ExecutionError(f"output {tensor.name!r}: dtype {array.dtype} came, strings expected")
    strings = array.astype(object)
    for index, element in enumerate(strings.flat):
        if not isinstance(element, str | bytes):
            raise ExecutionError(
                f"output {tensor.name!r}: element {index} is {type(element).__name__}, str or bytes expected"
            )
    return strings
