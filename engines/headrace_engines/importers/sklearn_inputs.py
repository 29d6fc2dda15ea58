"""What an estimator takes: one matrix, or a column for each feature of the table that it was fitted on.

A table has columns of several types: numbers are FP32, categories that are whole numbers INT64, and text
STRING, as the encoder that the pipeline gives a column to knows its categories.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.rows import Rows, text_of

MATRIX: Final = "input"
"""The name of the only input of an estimator that takes a matrix."""

_TYPES: Final = {"float32": FloatTensorType, "int64": Int64TensorType, "object": StringTensorType}
_TEXTS: Final = frozenset({"object", "str", "string", "bytes", "BYTES", "STRING"})


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of the graph: `dtypes` by name, and how many columns each has.

    `are_columns` says that the estimator takes a table of them; `is_text` that it takes a list of texts.
    """

    dtypes: dict[str, str]
    width: int
    are_columns: bool
    is_text: bool
    precision: type = np.float64

    def types(self) -> list[tuple[str, Any]]:
        """Return the inputs as the exporter wants to be told."""
        return [(name, _TYPES[dtype]([None, self.width])) for name, dtype in self.dtypes.items()]

    def arranged(self, rows: Rows) -> Any:
        """Return rows as the estimator takes them: numbers in FP64, unless it was fitted in FP32 for good."""
        if self.is_text:
            return _texts(next(iter(rows.values()))).reshape(-1)
        if not self.are_columns:
            return np.asarray(next(iter(rows.values())), self.precision)
        import pandas as pd  # an estimator that takes tables was fitted on one

        columns = {
            name: _texts(rows[name]).reshape(-1) if dtype == "object" else rows[name].reshape(-1)
            for name, dtype in self.dtypes.items()
        }
        return pd.DataFrame(
            {
                name: column.astype(np.float64) if column.dtype == np.float32 else column
                for name, column in columns.items()
            }
        )


def inputs_of(estimator: Any, options: ImportOptions) -> Inputs:
    """Return what a fitted estimator takes; `options` may name the dtypes of columns.

    Raises UnsupportedModelError if it does not know how many features it takes, or an input is named
    that it does not have.
    """
    parts = tuple(_parts(estimator))
    if any(hasattr(part, "vocabulary_") for part in parts[:2]) and not _columns(parts):
        return Inputs({MATRIX: "object"}, 1, are_columns=False, is_text=True)
    columns = _columns(parts)
    if columns is None:
        features = getattr(estimator, "n_features_in_", None)
        if features is None:
            raise UnsupportedModelError(
                f"{type(estimator).__name__} does not tell how many features it takes: it was not fitted on "
                f"a matrix of numbers"
            )
        _check_names([MATRIX], options)
        centres = getattr(parts[-1], "cluster_centers_", np.zeros(0))
        return Inputs({MATRIX: "float32"}, int(features), False, False, centres.dtype.type)
    names, transformer = columns
    _check_names(names, options)
    known = _dtypes(transformer)
    given = {name: _named(dtype) for name, dtype in options.input_dtypes.items()}
    dtypes = {name: given.get(name, known.get(name, "float32")) for name in names}
    return Inputs(dtypes, 1, are_columns=True, is_text=False)


def _check_names(names: list[str], options: ImportOptions) -> None:
    for name in (*options.input_shapes, *options.input_dtypes):
        if name not in names:
            raise UnsupportedModelError(f"there is no input {name!r}; the inputs are {', '.join(names)}")


def _named(dtype: str) -> str:
    if dtype in _TEXTS:
        return "object"
    return "int64" if np.dtype(dtype.lower()).kind in "iub" else "float32"


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and, if it is a pipeline, its steps."""
    yield estimator
    for _, step in getattr(estimator, "steps", ()):
        yield from _parts(step)


def _columns(parts: tuple[Any, ...]) -> tuple[list[str], ColumnTransformer] | None:
    """Return the columns' names and the first step that divides them, where a table was fitted on."""
    for part in parts:
        if isinstance(part, ColumnTransformer) and hasattr(part, "feature_names_in_"):
            return [str(name) for name in part.feature_names_in_], part
    return None


def _dtypes(transformer: ColumnTransformer) -> dict[str, str]:
    """Return the dtypes of the columns that are no FP32 numbers."""
    names = [str(name) for name in transformer.feature_names_in_]
    dtypes: dict[str, str] = {}
    for _, part, columns in transformer.transformers_:
        if part in ("drop", "passthrough") or not isinstance(part, BaseEstimator):
            continue
        chosen = [columns] if isinstance(columns, str) else columns
        chosen = np.asarray(names)[chosen] if np.asarray(chosen).dtype.kind in "ib" else chosen
        for place, name in enumerate(chosen):
            kind = _kind(part, place)
            if kind != "float32":
                dtypes[str(name)] = kind
    return dtypes


def _kind(part: Any, place: int) -> str:
    """Return the dtype of a column by the first step that knows its values."""
    for step in _parts(part):
        if hasattr(step, "vocabulary_"):
            return "object"
        for known in ("categories_", "statistics_"):
            values = getattr(step, known, None)
            if values is None:
                continue
            column = np.asarray(values[place])
            if column.dtype.kind in "OUS":
                return "object"
            if known == "categories_":
                return "int64" if column.dtype.kind in "iub" else "float32"
    return "float32"


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    items = [text_of(item) for item in array.ravel()]
    return np.array(items, object).reshape(array.shape)
