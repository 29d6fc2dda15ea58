"""Makes one compressed ONNX file of another by the steps of a recipe."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from headrace_engines.compress import graph
from headrace_engines.compress.quantise import quantise, quantise_dynamically
from headrace_engines.compress.recipes import Compression
from headrace_engines.compress.steps import Quantise, QuantiseDynamically, Step
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.rows import Rows


def compress(
    how: Compression, model: Path, into: Path, calibration: Rows, *, keep: Collection[str] = ()
) -> None:
    """Write the model of the file `model`, compressed by the recipe, to the file `into`.

    Nodes named in `keep` stay as they are, in FP32; `sensitivity.layers` tells the names. The same
    model, rows and versions of the libraries give the same bytes. Raises UnsupportedModelError, in
    one line, if the recipe does not fit the model.
    """
    made = graph.prepared(model)
    for step in how.steps:
        try:
            made = _applied(step, made, calibration, keep)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{how.name}: {error}") from error
    onnx.save(made, into)


def _applied(step: Step, model: onnx.ModelProto, calibration: Rows, keep: Collection[str]) -> onnx.ModelProto:
    match step:
        case Quantise():
            return quantise(model, step, calibration, keep)
        case QuantiseDynamically():
            return quantise_dynamically(model, step, keep)
    raise UnsupportedModelError(f"no way to {step.verb}")
