"""What a process and its child tell each other: JSON lines, and arrays in files.

Either side reads the other's as data alone: the child may have executed anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace_engines.rows import text_of

_TEXT = "text"


@contextmanager
def standard_streams() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Take its standard input and output from this process, for questions and answers alone.

    Whatever reads there finds nothing, and what is printed goes where errors go.
    """
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as answers:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        yield questions, answers


def send(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write one message; NumPy's scalars in it become Python's."""
    stream.write(json.dumps(message, default=_item).encode() + b"\n")
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any]:
    """Return the next message; EOFError when the other side has ended, ValueError if it is no message."""
    line = stream.readline()
    if not line:
        raise EOFError
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message")  # noqa: TRY004  what came is wrong, and no argument's type
    return message


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> list[list[str]]:
    """Write arrays to a file that holds no Python objects; returns the names and dtypes to read it by.

    Items of object arrays are texts, or their UTF-8.
    """
    described = [
        [name, _TEXT if array.dtype == object else str(array.dtype)] for name, array in arrays.items()
    ]
    with path.open("wb") as file:
        np.savez(file, *(_plain(array) for array in arrays.values()))
    return described


def read_arrays(path: Path, described: list[list[str]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file; texts in arrays of objects."""
    with np.load(path, allow_pickle=False) as archive:
        return {
            name: _restored(archive[f"arr_{position}"], dtype)
            for position, (name, dtype) in enumerate(described)
        }


def _item(scalar: Any) -> Any:
    if isinstance(scalar, np.generic):
        return scalar.item()
    raise TypeError(f"{type(scalar).__name__} cannot be told")


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype != object:
        return array
    texts = [text_of(item) for item in array.ravel()]
    return np.array(texts, np.str_).reshape(array.shape)


def _restored(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == _TEXT:
        return array.astype(object)
    if dtype == "bfloat16":
        return array.view(ml_dtypes.bfloat16)
    return array
