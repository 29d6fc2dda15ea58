"""Rows out of NumPy's files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from headrace_engines import files
from headrace_engines.data.options import Found
from headrace_engines.errors import DataError

_PICKLED = "Object arrays cannot be loaded"


def read(path: Path) -> Found:
    """Read a .npz file's arrays, or the one of a .npy file, which is named "".

    Raises DataError saying what is wrong with the file.
    """
    files.check(path)
    try:
        # An array of objects is a pickle, which executes whatever its author put in it.
        with path.open("rb") as file:
            held = np.load(file, allow_pickle=False)
            arrays = {"": held} if isinstance(held, np.ndarray) else {name: held[name] for name in held.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise DataError(f"{path}: {_reason(error, path)}") from error
    if scalars := [name for name, array in arrays.items() if not array.ndim]:
        raise DataError(f"{path}: array {scalars[0]!r} is a single value: axis 0 has to count rows")
    return Found(str(path), arrays)


def _reason(error: Exception, path: Path) -> str:
    text = str(error)
    if _PICKLED in text:
        return "it holds Python objects, which are not read: save numbers, or text as NumPy's str"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    return f"NumPy cannot read it: {files.nature(path)}"
