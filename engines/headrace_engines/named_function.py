"""Functions that a person names on the command line: `file.py:function` or `package.module:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


def named_function(source: str) -> Callable[..., Any]:
    """Import the module and return what the name in it stands for; the module's code is executed.

    Raises ValueError, which says what is wrong with the name or what the import raised.
    """
    place, _, name = source.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(
            f"{source!r} names no function: expected file.py:function or package.module:function"
        )
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except Exception as error:
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None or not callable(function):
        raise ValueError(f"{place} has no function {name!r}")
    return function


def _from_file(path: Path) -> ModuleType:
    """Import a file as `python file.py` would: its neighbours can be imported by it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    with _first_in_path(str(path.absolute().parent)):
        spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> ModuleType:
    """Import a module as `python -m` would: the current folder is looked in first."""
    with _first_in_path(str(Path.cwd())):
        return importlib.import_module(name)


@contextmanager
def _first_in_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
