"""Inputs of a model as people type them: literals, files, or made up from the model's metadata."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace import TensorMetadata
from headrace_engines.spec import ANY
from headrace_proto.tensors import DTYPES

Fill = Callable[[tuple[int, ...], np.dtype[np.generic]], NDArray[Any]]
"""Makes up one array of a shape and a dtype."""


class InputError(ValueError):
    """An input does not fit; the text names it, what came, and what was expected."""


def gather(
    assignments: Sequence[str], filling: str | None, declared: Sequence[TensorMetadata], rows: int
) -> dict[str, NDArray[Any]]:
    """Return the inputs that were typed, or made up: `filling` is "zeros", "random" or None."""
    if filling is None:
        return parse(assignments, declared)
    if assignments:
        raise InputError(f"--input and --{filling} exclude each other")
    return made_up(declared, rows, zeros if filling == "zeros" else random)


def parse(assignments: Iterable[str], declared: Sequence[TensorMetadata]) -> dict[str, NDArray[Any]]:
    """Read NAME=VALUE texts into arrays of the declared dtypes, shapes unchecked.

    VALUE is a JSON literal, @FILE.npy, @FILE.json, or @- for JSON on standard input. The name may be
    left out where the model has one input.
    """
    by_name = {tensor.name: tensor for tensor in declared}
    arrays: dict[str, NDArray[Any]] = {}
    for assignment in assignments:
        name, value = _split(assignment, by_name)
        if name in arrays:
            raise InputError(f"input {name!r} came twice")
        arrays[name] = _converted(_read(name, value), by_name[name])
    missing = [told(tensor) for tensor in declared if tensor.name not in arrays]
    if missing:
        raise InputError(f"no value for {'; '.join(missing)}; give --input NAME=VALUE, --zeros or --random")
    return arrays


def fit(arrays: Mapping[str, NDArray[Any]], declared: Sequence[TensorMetadata]) -> dict[str, NDArray[Any]]:
    """Return the arrays in the declared shapes: one row without its batch axis is given one."""
    return {tensor.name: _fitted(arrays[tensor.name], tensor) for tensor in declared}


def requests(
    assignments: Sequence[str], filling: str | None, declared: Sequence[TensorMetadata], count: int
) -> list[dict[str, NDArray[Any]]]:
    """Return the inputs of one request for each row that was typed, or of `count` made-up ones.

    A model that takes no inputs is asked `count` times.
    """
    if filling or not declared:
        return [fit(gather(assignments, filling, declared, 1), declared) for _ in range(count)]
    rows = split_rows(parse(assignments, declared), declared)
    return [fit(row, declared) for row in rows]


def split_rows(
    arrays: Mapping[str, NDArray[Any]], declared: Sequence[TensorMetadata]
) -> list[dict[str, NDArray[Any]]]:
    """Cut arrays of equally many rows into one dictionary a row; one row may leave out that axis.

    What is a row of a model without a batch axis is its whole input.
    """
    stacks = {tensor.name: _stack(arrays[tensor.name], tensor) for tensor in declared}
    counts = {name: len(stack) for name, stack in stacks.items()}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InputError(f"every input needs as many rows as the others: {told}")
    (rows,) = set(counts.values())
    if not rows:
        raise InputError("there are no rows: the first axis of every input counts them")
    # Without the dots a row of strings that are single values would be a string, and no array.
    return [{name: stack[row, ...] for name, stack in stacks.items()} for row in range(rows)]


def made_up(declared: Sequence[TensorMetadata], rows: int, fill: Fill) -> dict[str, NDArray[Any]]:
    """Return arrays of `rows` rows where the model takes rows, and of size 1 along other free axes."""
    arrays = {}
    for tensor in declared:
        shape = tuple(
            size if size != ANY else rows if axis == 0 else 1 for axis, size in enumerate(tensor.shape)
        )
        arrays[tensor.name] = fill(shape, _dtype(tensor))
    return arrays


def zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """Fill with zeros, or empty strings."""
    return np.full(shape, "", dtype) if dtype == np.dtype(object) else np.zeros(shape, dtype)


def random(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """Fill with numbers from 0 up to 1, whole ones from 0 to 9, or strings of a digit."""
    generator = np.random.default_rng()
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype == np.dtype(object):
        return generator.integers(0, 10, shape).astype(str).astype(dtype)
    if dtype.kind in "iu":
        return generator.integers(0, 10, shape).astype(dtype)
    return generator.random(shape).astype(dtype)


def told(tensor: TensorMetadata) -> str:
    """Return a tensor as people read it: name, datatype, and shape with -1 for any size."""
    return f"{tensor.name} {tensor.datatype} [{', '.join(map(str, tensor.shape))}]"


def _dtype(tensor: TensorMetadata) -> np.dtype[Any]:
    if tensor.datatype not in DTYPES:
        raise InputError(f"input {tensor.name!r} has datatype {tensor.datatype!r}, which is not known here")
    return DTYPES[tensor.datatype]


def _split(assignment: str, by_name: Mapping[str, TensorMetadata]) -> tuple[str, str]:
    name, equals, value = assignment.partition("=")
    if equals and name in by_name:
        return name, value
    if not by_name:
        raise InputError(f"{assignment!r} came, and the model takes no inputs")
    known = "; ".join(map(told, by_name.values()))
    if equals and not name.startswith(("@", "[", '"')):
        raise InputError(f"the model has no input {name!r}; it has: {known}")
    if len(by_name) != 1:
        raise InputError(f"{assignment!r} is not NAME=VALUE, and the model has several inputs: {known}")
    return next(iter(by_name)), assignment


def _read(name: str, value: str) -> Any:
    if not value.startswith("@"):
        return _json(name, value, "the value")
    path = Path(value[1:])
    try:
        if value == "@-":
            return _json(name, sys.stdin.read(), "standard input")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"input {name!r}: cannot read {path}: {error.strerror}") from error
    if path.suffix != ".npy":
        return _json(name, content, str(path))
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise InputError(f"input {name!r}: {path} is not a NumPy file that can be read: {error}") from error


def _json(name: str, text: str | bytes, origin: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"input {name!r}: {origin} is nested too deeply") from error
    except ValueError as error:
        raise InputError(
            f"input {name!r}: {origin} is not JSON: {error}; files are named with @ before the name"
        ) from error


def _converted(value: Any, tensor: TensorMetadata) -> NDArray[Any]:
    dtype = _dtype(tensor)
    if dtype == np.dtype(object):
        return _strings(np.asarray(value, dtype=object), tensor)
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"input {tensor.name!r}: its rows differ in length") from None
    if array.dtype not in DTYPES.values() or array.dtype == np.dtype(object):
        raise InputError(f"input {tensor.name!r} is {tensor.datatype}; {_came(array)} came")
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    # A float may be rounded to a shorter one; a whole number or a truth value is that, or something else.
    if converted.dtype.kind in "biu" and not np.array_equal(converted, array):
        raise InputError(f"input {tensor.name!r} is {tensor.datatype}; some values do not fit into that")
    return converted


def _came(array: NDArray[Any]) -> str:
    """Return what NumPy made of a value, in the protocol's words where it has them."""
    if array.dtype == np.dtype(object):
        return "something that is no tensor"
    return "BYTES" if array.dtype.kind in "US" else str(array.dtype)


def _strings(array: NDArray[Any], tensor: TensorMetadata) -> NDArray[Any]:
    for item in array.flat:
        if not isinstance(item, str | bytes):
            raise InputError(f"input {tensor.name!r} is BYTES, which takes strings; {item!r} came")
    return array


def _stack(array: NDArray[Any], tensor: TensorMetadata) -> NDArray[Any]:
    """Return the array with an axis that counts its rows."""
    row_axes = len(tensor.shape) - (tensor.shape[:1] == (ANY,))
    return array[np.newaxis] if array.ndim <= row_axes else array


def _fitted(array: NDArray[Any], tensor: TensorMetadata) -> NDArray[Any]:
    shape = tensor.shape
    if array.ndim == len(shape) - 1 and shape[0] == ANY:
        array = array[np.newaxis]
    if array.ndim != len(shape) or any(
        want not in (ANY, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        raise InputError(f"input {told(tensor)} does not take shape [{', '.join(map(str, array.shape))}]")
    return array
