"""The first axis of every input and output: made to count rows, of any number, and named "batch".

Exporters fix it at the one row of their example, in the inputs' shapes and in the constants by which
tensors are reshaped. Both are opened here, and the result is taken only if executing it proves it: each
row gets the answers that the model gave before, inside as well, and the same ones beside other rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnx

from headrace_engines.errors import EngineError, UnsupportedModelError
from headrace_engines.importers.exported import BATCH_AXIS
from headrace_engines.importers.fixed_constants import open_constants
from headrace_engines.importers.fixed_reshapes import known_shapes, open_reshapes
from headrace_engines.importers.row_proof import prove_rows, spec_of, takes_one_row_alone
from headrace_engines.importers.simplify import folded
from headrace_engines.printable import printable


def open_first_axis(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a first axis "batch" on every input, and on every output that tells one.

    Raises UnsupportedModelError if there is no such axis, or if one that is fixed cannot be opened.
    """
    inputs = real_inputs(model.graph)
    if not inputs:
        raise UnsupportedModelError("the model has no inputs, so there are no rows to answer")
    rows = _fixed_rows(inputs)
    if rows:
        return _opened(model, rows, f"the model's first axis is fixed at {rows}")
    symbols = {_first_dim(value).dim_param for value in inputs} - {""}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _name_axes(result.graph, rows, symbols)
    if not takes_one_row_alone(result):
        return result
    for value in (*result.graph.input, *result.graph.output):
        if _is_named(value):
            _first_dim(value).dim_value = 1
    return _opened(result, 1, "the model takes one row alone, though its first axis is said to be open,")


def _opened(model: onnx.ModelProto, rows: int, what: str) -> onnx.ModelProto:
    """Return the model, which is made for so many rows, for any number; refused in the words of `what`."""
    result = onnx.ModelProto()
    result.CopyFrom(folded(model))
    names = [value.name for value in real_inputs(result.graph)]
    if rows == 1:
        open_constants(result.graph, names, known_shapes(result, names, rows))
    reshaped = open_reshapes(result, names, rows)
    _name_axes(result.graph, rows, ())
    try:
        prove_rows(model, result, rows, reshaped)
    except EngineError as error:
        raise UnsupportedModelError(
            f"{what} and cannot be opened ({error}): export it with a dynamic first axis (dynamic_shapes of "
            "torch.onnx.export, None in a Keras input)"
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


def _first_dim(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim[0]


def _name_axes(graph: onnx.GraphProto, rows: int, symbols: Collection[str]) -> None:
    """Name the first axis of all inputs, and of the outputs that are told to follow them."""
    for value in real_inputs(graph):
        _name(value)
    _name_told_outputs(graph, rows, symbols)
    del graph.value_info[:]


def _name(value: onnx.ValueInfoProto) -> None:
    dim = _first_dim(value)
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
    spec = spec_of(model)
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
