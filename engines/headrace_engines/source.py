"""Where a model comes from: whatever `headrace build` can be told to build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.manifest import Recipe
from headrace_engines.rows import Rows


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
