"""Rows out of a function that a person wrote."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from headrace_engines.data.options import Found
from headrace_engines.errors import DataError


def is_function(source: str) -> bool:
    """Whether a source is written as `file.py:function` or `package.module:function`."""
    module, _, name = source.rpartition(":")
    return bool(module) and name.isidentifier() and not Path(source).exists()


def read(source: str) -> Found:
    """Call the function, which gets nothing and returns rows.

    Rows are an array, or a mapping of arrays by the inputs' names, or a pair of either and the labels.
    Raises DataError with what the function raised, or what it returned instead.
    """
    function = _function(source)
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


def _function(source: str) -> Callable[[], Any]:
    place, _, name = source.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except Exception as error:
        raise DataError(f"{source}: {place} cannot be imported: {type(error).__name__}: {error}") from error
    function: Callable[[], Any] | None = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"{source}: {place} has no function {name!r}")
    return function


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> ModuleType:
    """Import a module as `python -m` would: the current folder is looked in first."""
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove("")
