"""Rows of a model's inputs, and what tells one set of arrays from another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = Mapping[str, NDArray[Any]]
"""One array per input of the model, by its name; axis 0 counts rows."""


def data_hash(*arrays: NDArray[Any]) -> str:
    """Return the SHA-256 of some arrays: their shapes, dtypes and little-endian contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(_contents(array))
    return digest.hexdigest()


def text_of(item: object) -> str:
    """Return a text that a row or a label holds; some libraries hold its UTF-8."""
    return item.decode() if isinstance(item, bytes) else str(item)


def _contents(array: NDArray[Any]) -> bytes:
    if array.dtype != object:
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    texts = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel())
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)
