"""Rows that are there more than once: copies prove nothing that the first of them has not proved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def kinds(arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Return for each row the number of its kind: equal rows are of one, numbered as they first appear."""
    numbers: dict[bytes, int] = {}
    found = [
        numbers.setdefault(_digest([array[at] for array in arrays]), len(numbers))
        for at in range(len(arrays[0]))
    ]
    return np.array(found, np.int64)


def firsts(arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Return the first row of each kind, in the order of the rows."""
    return np.unique(kinds(arrays), return_index=True)[1]


def _digest(row: Sequence[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for values in row:
        array = np.asarray(values)
        content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()
