"""What executing a model proves of its rows: each gets the answers that it got before, beside any others."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from headrace_engines import independence
from headrace_engines.errors import ExecutionError, UnsupportedModelError
from headrace_engines.importers import exported
from headrace_engines.importers.simplify import is_large
from headrace_engines.printable import printable
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.samples import Floats, accepted_recipe, is_floating
from headrace_engines.spec import ModelSpec, TensorSpec

_PROOF_ROWS: Final = 3
_TOLERANCE: Final = 1e-4
"""Of an output's range: kernels differ by batch size in the last bits, and layers widen that."""


def prove_rows(before: onnx.ModelProto, after: onnx.ModelProto, rows: int, names: Collection[str]) -> None:
    """Raise EngineError unless each row gets what it got before, whoever its neighbours are.

    `before` is the model for so many `rows`, `after` the one for any number; `names` are tensors inside,
    with their rows on the first axis, which are compared as well where both models have them.
    """
    inside = _shared(before, after, names)
    with (
        tempfile.TemporaryDirectory(prefix="headrace-") as folder,
        closing(_engine(before, Path(folder, "before.onnx"), inside)) as old,
        closing(_engine(after, Path(folder, "after.onnx"), inside)) as new,
    ):
        if not new.spec.has_batch_axis:
            raise UnsupportedModelError("an output does not have as many rows as come")
        count = max(_PROOF_ROWS, 2 * rows) if rows > 1 else _PROOF_ROWS
        recipe = accepted_recipe(new.spec.inputs, count, new.run, (Floats.UNIFORM, Floats.NORMAL))
        came = recipe.rows(new.spec.inputs, count - count % rows, np.random.default_rng(0))
        single = [
            old.run([array[start : start + rows] for array in came]) for start in range(0, len(came[0]), rows)
        ]
        expected = [np.concatenate(parts) for parts in zip(*single, strict=True)]
        for tensor, wanted, got in zip(new.spec.outputs, expected, new.run(came), strict=True):
            if not _is_same(wanted, got):
                raise UnsupportedModelError(f"{printable(tensor.name)!r} changes")
        finding = independence.check(new)
        if not finding.independent:
            raise UnsupportedModelError(finding.why)


def takes_one_row_alone(model: onnx.ModelProto) -> bool:
    """Whether a model executes one row and not several: an exporter may have baked its example's one in."""
    with (
        tempfile.TemporaryDirectory(prefix="headrace-") as folder,
        closing(_engine(model, Path(folder, "model.onnx"))) as engine,
    ):
        spec = engine.spec
        lead = 0 if spec.has_batch_axis else 1
        inputs = [replace(tensor, dims=tensor.dims[lead:]) for tensor in spec.inputs]
        return not _executes(engine, inputs, _PROOF_ROWS) and _executes(engine, inputs, 1)


def spec_of(model: onnx.ModelProto) -> ModelSpec:
    """Return what is found of a model when it is loaded."""
    with (
        tempfile.TemporaryDirectory(prefix="headrace-") as folder,
        closing(_engine(model, Path(folder, "model.onnx"))) as engine,
    ):
        return engine.spec


def _shared(
    before: onnx.ModelProto, after: onnx.ModelProto, names: Collection[str]
) -> list[onnx.ValueInfoProto]:
    """Return those of the named tensors inside that both models have, as outputs to compare them by."""
    computed = {name for node in before.graph.node for name in node.output}
    computed -= {value.name for value in before.graph.output}
    if is_large(after):
        return []
    return [
        helper.make_tensor_value_info(
            value.name, value.type.tensor_type.elem_type, [None] * len(value.type.tensor_type.shape.dim)
        )
        for value in onnx.shape_inference.infer_shapes(after).graph.value_info
        if value.name in names and value.name in computed
    ]


def _executes(engine: OnnxRuntimeEngine, inputs: Sequence[TensorSpec], rows: int) -> bool:
    try:
        accepted_recipe(inputs, rows, engine.run)
    except ExecutionError:
        return False
    return True


def _engine(
    model: onnx.ModelProto, path: Path, inside: Sequence[onnx.ValueInfoProto] = ()
) -> OnnxRuntimeEngine:
    """Return an engine that also answers what is inside the model."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(inside)
    exported.save(shown, path)
    return OnnxRuntimeEngine(path, max_batch_size=_PROOF_ROWS)


def _is_same(wanted: NDArray[Any], got: NDArray[Any]) -> bool:
    if wanted.shape != got.shape:
        return False
    if not is_floating(wanted.dtype):
        return bool(np.array_equal(wanted, got))
    wide = wanted.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    allowed = _TOLERANCE * float(finite.max(initial=0.0))
    return bool(np.allclose(got.astype(np.float64), wide, rtol=0.0, atol=allowed, equal_nan=True))
