"""Makes one compressed ONNX file of another by the steps of a recipe."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from headrace_engines.compress import graph
from headrace_engines.compress.clip import clip
from headrace_engines.compress.distil import distil
from headrace_engines.compress.float8 import quantise_float8
from headrace_engines.compress.float16 import to_half
from headrace_engines.compress.prune import prune_magnitude, prune_two_of_four
from headrace_engines.compress.quantise import quantise, quantise_dynamically
from headrace_engines.compress.recipes import Compression
from headrace_engines.compress.steps import (
    Clip,
    Distil,
    Half,
    PruneMagnitude,
    PruneStructured,
    PruneTwoOfFour,
    Quantise,
    QuantiseDynamically,
    QuantiseFloat8,
    Step,
)
from headrace_engines.compress.structured import prune_structured
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.progress import Progress
from headrace_engines.rows import Rows


def _silent(step: str, fraction: float) -> None:
    """Tell nobody."""


def compress(
    how: Compression,
    model: Path,
    into: Path,
    calibration: Rows,
    *,
    keep: Collection[str] = (),
    progress: Progress = _silent,
) -> None:
    """Write the model of the file `model`, compressed by the recipe, to the file `into`.

    Nodes named in `keep` stay as they are, in FP32; `sensitivity.layers` tells the names. The same
    model, rows and versions of the libraries give the same bytes. `progress` is told of steps that
    take long. Raises UnsupportedModelError, in one line, if the recipe does not fit the model.
    """
    made = graph.prepared(model)
    with threadpool_limits(1):  # sums are in the same order whatever the number of cores
        for step in how.steps:
            try:
                made = _applied(step, made, calibration, keep, progress)
            except UnsupportedModelError as error:
                raise UnsupportedModelError(f"{how.name}: {error}") from error
    onnx.save(made, into)


def _applied(
    step: Step, model: onnx.ModelProto, calibration: Rows, keep: Collection[str], progress: Progress
) -> onnx.ModelProto:
    match step:
        case Distil():
            return distil(model, step, calibration, progress)
        case Quantise():
            return quantise(model, step, calibration, keep)
        case QuantiseDynamically():
            return quantise_dynamically(model, step, keep)
        case QuantiseFloat8():
            return quantise_float8(model, step, calibration, keep)
        case Half():
            return to_half(model, keep)
        case Clip():
            return clip(model, step, keep)
        case PruneMagnitude():
            return prune_magnitude(model, step, keep)
        case PruneTwoOfFour():
            return prune_two_of_four(model, calibration, keep)
        case PruneStructured():
            return prune_structured(model, step, calibration, keep)
