"""Rows out of a function that a person wrote."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

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

    Rows are an array, or a mapping of arrays by the inputs' names, or a table (a DataFrame), or a pair of one
    of these and the labels. What the function prints goes where errors go. Raises DataError with what the
    function raised, or what it returned instead.
    """
    with redirect_stdout(sys.stderr):  # standard output is the command's own, which programs may read
        made = _called(source)
    rows, labels = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    is_table = hasattr(rows, "columns") and hasattr(rows, "to_numpy")
    has_names = is_table and all(isinstance(name, str) for name in rows.columns)
    named = {name: rows[name] for name in rows.columns} if is_table else rows
    named = named if isinstance(named, Mapping) else {"": rows}
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
    return Found(source, arrays, right, is_table=is_table, has_names=has_names or not is_table)


def _called(source: str) -> Any:
    try:
        return _function(source)()
    except DataError:
        raise
    except SystemExit as error:
        raise DataError(
            f"{source} ended the program (sys.exit, {error.code!r}): expected a function that returns rows"
        ) from error
    except Exception as error:
        raise DataError(f"{source} raised {type(error).__name__}: {error}") from error


def _function(source: str) -> Callable[..., Any]:
    try:
        return named_function(source)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
