"""Where a model comes from: whatever `headrace build` can be told to build."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.manifest import Recipe

Rows = Mapping[str, NDArray[Any]]
"""One array per input of the model, by its name; axis 0 counts rows."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trained classifier as ONNX, with the data that its artefacts are made and judged with.

    No row of `calibration` or `held_out` was trained on, and they share none. `labels` are the
    classes of the held-out rows; `expected` is what the model answered to them before it was
    converted. `data` holds the SHA-256 of every split.
    """

    model: bytes
    calibration: Rows
    held_out: Rows
    labels: NDArray[np.int64]
    expected: NDArray[Any]
    data: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """Something that can be built, known by facts that cost nothing to learn.

    `recipe` and the versions of `tools` (names of installed distributions) decide every byte that
    `prepare` returns, so that an unchanged build is recognised without preparing anything.
    """

    recipe: Recipe
    tools: tuple[str, ...]
    prepare: Callable[[], Prepared]


def data_hash(*arrays: NDArray[Any]) -> str:
    """Return the SHA-256 of a split: shapes, dtypes and little-endian contents of its arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
