"""The first axis of every input and output: made to count rows, of any number, and named "batch".

Exporters fix it at the one row of their example, in the inputs' shapes and in the constants by which
tensors are reshaped. Both are opened here, and the result is taken only if executing it proves it: each
row gets the answers that the model gave before, inside as well, and the same ones beside other rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from headrace_engines import independence
from headrace_engines.errors import EngineError, UnsupportedModelError
from headrace_engines.importers import exported
from headrace_engines.importers.exported import BATCH_AXIS
from headrace_engines.importers.fixed_constants import open_constants
from headrace_engines.importers.fixed_reshapes import known_shapes, open_reshapes
from headrace_engines.importers.simplify import folded, is_large
from headrace_engines.printable import printable
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.samples import Floats, accepted_recipe, is_floating

_PROOF_ROWS: Final = 3
_TOLERANCE: Final = 1e-4
"""Of an output's range: kernels differ by batch size in the last bits, and layers widen that."""


def open_first_axis(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a first axis "batch" on every input, and on every output that tells one.

    Raises UnsupportedModelError if there is no such axis, or if one that is fixed cannot be opened.
    """
    inputs = real_inputs(model.graph)
    if not inputs:
        raise UnsupportedModelError("the model has no inputs, so there are no rows to answer")
    rows = _fixed_rows(inputs)
    result = onnx.ModelProto()
    result.CopyFrom(folded(model) if rows else model)
    names = [value.name for value in inputs]
    if rows == 1:
        open_constants(result.graph, names, known_shapes(result, names, rows))
    reshaped = open_reshapes(result, names, rows) if rows else []
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in inputs} - {""}
    for value in real_inputs(result.graph):
        _name(value)
    _name_told_outputs(result.graph, rows, symbols)
    del result.graph.value_info[:]
    if rows:
        try:
            _prove(model, result, rows, _shared(model, result, reshaped))
        except EngineError as error:
            raise UnsupportedModelError(
                f"the model's first axis is fixed at {rows} and cannot be opened ({error}): export it with "
                "a dynamic first axis (dynamic_shapes of torch.onnx.export, None in a Keras input)"
            ) from error
    return result


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller gives: old models list their constants among them."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _fixed_rows(inputs: Sequence[onnx.ValueInfoProto]) -> int:
    """Return the size at which the first axis is fixed; 0 if it is open."""
    sizes: dict[str, int] = {}
    for value in inputs:
        name = printable(value.name)
        if not value.type.tensor_type.HasField("shape"):
            raise UnsupportedModelError(
                f"the input {name!r} does not tell its shape: give a row's, as in --input {name}:float32:9"
            )
        dims = value.type.tensor_type.shape.dim
        if not dims:
            raise UnsupportedModelError(
                f"the input {name!r} is a scalar, without a row for each that comes: export it as a constant"
            )
        if dims[0].HasField("dim_value"):
            sizes[name] = dims[0].dim_value
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name!r} at {size}" for name, size in sizes.items())
        raise UnsupportedModelError(
            f"the first axes of the inputs are fixed at different sizes ({shown}), so they count no rows: "
            "export the model with a dynamic first axis on every input"
        )
    return next(iter(sizes.values()), 0)


def _name(value: onnx.ValueInfoProto) -> None:
    dim = value.type.tensor_type.shape.dim[0]
    dim.Clear()
    dim.dim_param = BATCH_AXIS


def _name_told_outputs(graph: onnx.GraphProto, rows: int, symbols: Collection[str]) -> None:
    """Name the first axis of the outputs whose shapes say that it counts rows, and leave others' open."""
    for value in graph.output:
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            continue
        first = kind.shape.dim[0] if kind.shape.dim else None
        if first is None or first.dim_value not in (0, rows):
            shape = [dim.dim_value or dim.dim_param or "?" for dim in kind.shape.dim]
            raise UnsupportedModelError(
                f"the output {printable(value.name)!r} is {shape}, without a row for each that comes: "
                "export the model without it, or with its rows on a dynamic first axis"
            )
        if first.dim_value or first.dim_param in symbols:
            _name(value)
        else:
            first.Clear()


def name_outputs(model: onnx.ModelProto) -> None:
    """Name the first axis of the outputs that tell nothing of it, if executing the model proves it.

    Raises UnsupportedModelError if an output has not a row for each that comes.
    """
    unnamed = [value for value in model.graph.output if not _is_named(value)]
    if not unnamed:
        return
    with (
        tempfile.TemporaryDirectory(prefix="headrace-") as folder,
        closing(_engine(model, Path(folder, "model.onnx"))) as engine,
    ):
        spec = engine.spec
    if not spec.has_batch_axis:
        shown = ", ".join(repr(printable(value.name)) for value in unnamed)
        raise UnsupportedModelError(
            f"of the output {shown} it cannot be proved that it has a row for each that comes: export "
            "the model without it, or with its rows on a dynamic first axis"
        )
    for value, tensor in zip(model.graph.output, spec.outputs, strict=True):
        shape = value.type.tensor_type.shape
        if not shape.dim:
            shape.dim.extend([onnx.TensorShapeProto.Dimension() for _ in range(len(tensor.dims) + 1)])
        _name(value)


def _is_named(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and dims[0].dim_param == BATCH_AXIS


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


def _prove(
    before: onnx.ModelProto, after: onnx.ModelProto, rows: int, inside: Sequence[onnx.ValueInfoProto]
) -> None:
    """Raise EngineError unless each row gets what it got before, whoever its neighbours are."""
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
