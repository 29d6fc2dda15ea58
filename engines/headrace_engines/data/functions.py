"""Rows out of a function that a person wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headrace_engines.data.options import Found
from headrace_engines.errors import DataError
from headrace_engines.named_function import named_function


def is_function(source: str) -> bool:
    """Whether a source is written as `file.py:function` or `package.module:function`."""
    module, _, name = source.rpartition(":")
    return bool(module) and name.isidentifier() and not Path(source).exists()


def read(source: str) -> Found:
    """Call the function, which gets nothing and returns rows.

    Rows are an array, or a mapping of arrays by the inputs' names, or a pair of either and the labels.
    Raises DataError with what the function raised, or what it returned instead.
    """
    try:
        function = named_function(source)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    try:
        made = function()
    except Exception as error:
        raise DataError(f"{source} raised {type(error).__name__}: {error}") from error
    rows, labels = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    named = rows if isinstance(rows, Mapping) else {"": rows}
    try:
        arrays = {str(name): np.asarray(array) for name, array in named.items()}
        right = None if labels is None else np.asarray(labels)
    except ValueError as error:
        raise DataError(f"{source} returned no arrays: {error}") from error
    if rows is None or any(array.ndim == 0 for array in arrays.values()):
        raise DataError(
            f"{source} returned {type(made).__name__}: expected an array, a mapping of arrays by the names "
            "of inputs, or a pair of either and labels"
        )
    return Found(source, arrays, right)
