"""Brings arrays as a source holds them to the inputs of a model; complaints name input, column and row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace_engines.data import columns
from headrace_engines.data.options import Found
from headrace_engines.errors import DataError
from headrace_engines.rows import Rows, text_of
from headrace_engines.samples import is_floating
from headrace_engines.spec import ANY, TensorSpec


def fitted(found: Found, inputs: Sequence[TensorSpec], chosen: columns.Chosen) -> Rows:
    """Return an array for each input, of its dtype and dims, all of as many rows.

    Raises DataError where sizes or values do not fit.
    """
    rows = {tensor.name: _Fit(found, tensor).array(_given(found, tensor, chosen)) for tensor in inputs}
    counts = {name: len(array) for name, array in rows.items()}
    if found.labels is not None:
        counts["labels"] = len(found.labels)
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{found.name}: the numbers of rows differ: {told}")
    if not min(counts.values()):
        raise DataError(f"{found.name}: there is no row in it")
    return rows


def fitted_labels(found: Found) -> NDArray[Any] | None:
    """Return what is right, a value or several a row: INT64, FP64, or texts in an object array.

    Raises DataError where one is missing, or of another kind.
    """
    if found.labels is None:
        return None
    labels = found.labels[:, 0] if found.labels.shape[1:] == (1,) else found.labels
    if labels.dtype.kind in "OSU":
        return np.array([text_of(label) for label in labels.ravel()], dtype=object).reshape(labels.shape)
    if labels.dtype.kind not in "biuf":
        raise DataError(f"{found.name}: labels are of type {labels.dtype}: expected numbers or text")
    if labels.dtype.kind != "f":
        return labels.astype(np.int64)
    missing = np.argwhere(~np.isfinite(labels))
    if len(missing):
        raise DataError(f"{found.name}: {found.place(missing[0][0])}: there is no label")
    # A table does not tell whole numbers from others by their type.
    whole = found.is_table and np.array_equal(labels, np.round(labels))
    return labels.astype(np.int64 if whole else np.float64)


def _given(found: Found, tensor: TensorSpec, chosen: columns.Chosen) -> NDArray[Any]:
    names = chosen[tensor.name]
    return _stacked(found, tensor, names) if found.is_table else found.arrays[names[0]]


def _stacked(found: Found, tensor: TensorSpec, names: Sequence[str]) -> NDArray[Any]:
    wanted = math.prod(tensor.dims)
    are_plain = all(found.arrays[name].ndim == 1 for name in names)
    if are_plain and ANY not in tensor.dims and len(names) != wanted:
        raise DataError(
            f"{found.name}: input {tensor.name!r} takes {wanted} columns, and there are {len(names)} for it: "
            f"{columns.listed(names)}; --labels names the column of what is right, "
            "--columns those of an input"
        )
    if tensor.dtype != np.dtype(object):
        for name in names:
            _check_numbers(found, name)
    arrays = [found.arrays[name] for name in names]
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)


def _check_numbers(found: Found, name: str) -> None:
    """Raise DataError naming the first cell of a column that is no number."""
    if found.arrays[name].dtype.kind not in "OSU":
        return
    for at, cell in enumerate(found.arrays[name]):
        try:
            float(cell)
        except (TypeError, ValueError) as error:
            text = str(cell)[:40]
            raise DataError(
                f"{found.name}: {found.place(at)}, column {name!r}: {text!r} is no number"
            ) from error


class _Fit:
    """One array on its way to one input."""

    def __init__(self, found: Found, tensor: TensorSpec) -> None:
        self._found = found
        self._tensor = tensor

    def array(self, given: NDArray[Any]) -> NDArray[Any]:
        shaped = self._shaped(given)
        if self._tensor.dtype == np.dtype(object):
            return self._texts(shaped)
        return np.ascontiguousarray(self._numbers(shaped))

    def _shaped(self, given: NDArray[Any]) -> NDArray[Any]:
        dims = self._tensor.dims
        if given.shape[1:] != dims and ANY not in dims and given.ndim <= 2 and len(given):
            columns = given.size // len(given)
            if columns == math.prod(dims):  # flattened, as tables and scikit-learn have it
                return given.reshape(len(given), *dims)
        fits = given.ndim == len(dims) + 1 and all(
            dim in (ANY, size) for dim, size in zip(dims, given.shape[1:], strict=True)
        )
        if not fits:
            raise self._wrong(f"rows of shape {list(given.shape[1:])} came, {list(dims)} is expected")
        return given

    def _numbers(self, given: NDArray[Any]) -> NDArray[Any]:
        """Return the values in the input's dtype; raises DataError naming the first that it cannot hold."""
        if given.dtype.kind in "OSU":
            raise self._wrong(f"{self._first_text(given)} is no number")
        if given.dtype.kind not in "biuf" and given.dtype != np.dtype(ml_dtypes.bfloat16):
            raise self._wrong(f"values of type {given.dtype} came, numbers are expected")
        with np.errstate(over="ignore", invalid="ignore"):
            cast = given.astype(self._tensor.dtype)
            # What is rounded may be missing, and stays so; what is counted has to be the same number.
            wrong = np.isinf(cast) & np.isfinite(given) if is_floating(cast.dtype) else cast != given
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            raise self._wrong(f"{self._found.place(at[0])}: {given[at]} is no {self._tensor.dtype}")
        return cast

    def _texts(self, given: NDArray[Any]) -> NDArray[Any]:
        if given.dtype.kind in "OSU":
            return given.astype(object)
        raise self._wrong(f"values of type {given.dtype} came, texts are expected")

    def _first_text(self, given: NDArray[Any]) -> str:
        at = next(at for at, value in np.ndenumerate(given) if not isinstance(value, float | int))
        return f"{self._found.place(at[0])}: {str(given[at])[:40]!r}"

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self._found.name}: input {self._tensor.name!r}: {what}")
