"""Opens the constants by which a model of a fixed number of rows reshapes its tensors.

What such a constant has to say for any number is told by the shapes before and behind it: the rows lie
on one axis of what comes, and they lie on that axis of what leaves which has as many elements in front of
it. So the shapes are inferred twice, as the model was and with many times the rows, and each reshape gets
its constant anew, from the first to the last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

_TIMES: Final = 7
"""As many times the rows are inferred with: a prime that no other axis grows by."""
_INFERRED: Final = -1
_LARGE_BYTES: Final = 1 << 10
"""Constants above are no shapes, and inference does without their values."""

_Shapes = Mapping[str, tuple[int, ...]]


def open_reshapes(model: onnx.ModelProto, inputs: Sequence[str], rows: int) -> list[str]:
    """Let every reshape follow the number of rows on the first axis of the inputs, which is fixed at `rows`.

    Returns the names of the tensors that follow now and have their rows on the first axis. What cannot be
    told stays: executing the model shows whether it had to change.
    """
    before = known_shapes(model, inputs, rows)
    waiting = {node.output[0]: node for node in model.graph.node if node.op_type == "Reshape"}
    constants = _small_constants(model.graph)
    opened: list[str] = []
    while waiting:
        after = known_shapes(model, inputs, rows * _TIMES)
        for name in _first(model.graph, waiting):
            node = waiting.pop(name)
            came, grown, left = (before.get(node.input[0]), after.get(node.input[0]), before.get(name))
            if node.input[1] not in constants or came is None or grown is None or left is None:
                continue
            shape = opened_shape(came, grown, left, rows)
            if shape is not None:
                constant = numpy_helper.from_array(np.array(shape, np.int64), f"{name}/rows_shape")
                model.graph.initializer.append(constant)
                node.input[1] = constant.name
                if shape[0] == _INFERRED and left[0] == rows:
                    opened.append(name)
    return opened


def opened_shape(
    came: Sequence[int], grown: Sequence[int], left: Sequence[int], rows: int
) -> tuple[int, ...] | None:
    """Return the shape for any number of rows that is `left` for `rows`; None where nothing has to change.

    `came` is the shape that is reshaped, `grown` the same for more rows. The rows leave on an axis of
    their own where one fits; else they are joined to another, which is not the last: that counts features.
    """
    axes = [axis for axis, sizes in enumerate(zip(came, grown, strict=True)) if sizes[0] != sizes[1]]
    if len(axes) != 1 or grown[axes[0]] != _TIMES * came[axes[0]]:
        return None
    outer = math.prod(came[: axes[0]])
    axis = _axis(left, rows, outer, outer * came[axes[0]] // rows)
    return None if axis is None else (*left[:axis], _INFERRED, *left[axis + 1 :])


def _axis(shape: Sequence[int], rows: int, outer: int, inner: int) -> int | None:
    """Return the axis that the rows are on, which have `outer` or `inner` elements in front of them."""
    in_front = [math.prod(shape[:axis]) for axis in range(len(shape))]
    alone = [axis for axis, size in enumerate(shape) if size == rows and in_front[axis] in (outer, inner)]
    leading = [axis for axis, size in enumerate(shape) if in_front[axis] == outer and size % rows == 0]
    trailing = [axis for axis, size in enumerate(shape) if in_front[axis] * size == outer * rows]
    features = len(shape) - 1
    likely = [*alone, *(axis for axis in leading if axis != features), *trailing, *leading]
    return likely[0] if likely else None


def _first(graph: onnx.GraphProto, waiting: Mapping[str, onnx.NodeProto]) -> list[str]:
    """Return the reshapes, among those that wait, that no other one stands before."""
    behind: set[str] = set()
    first: list[str] = []
    for node in graph.node:
        is_behind = not behind.isdisjoint(node.input)
        if node.output and node.output[0] in waiting and not is_behind:
            first.append(node.output[0])
        if is_behind or (node.output and node.output[0] in waiting):
            behind.update(node.output)
    return first


def known_shapes(model: onnx.ModelProto, inputs: Sequence[str], rows: int) -> _Shapes:
    """Return the shapes that are known in full where each of these inputs has so many rows."""
    inferred = onnx.shape_inference.infer_shapes(_with_rows(model, inputs, rows), data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.input):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return shapes


def _with_rows(model: onnx.ModelProto, inputs: Sequence[str], rows: int) -> onnx.ModelProto:
    """Return the model's operators with so many rows in its inputs, without large constants."""
    graph = onnx.GraphProto(name=model.graph.name, node=model.graph.node)
    for value in model.graph.input:
        copy = graph.input.add()
        copy.CopyFrom(value)
        if value.name in inputs:
            copy.type.tensor_type.shape.dim[0].dim_value = rows
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _LARGE_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    graph.output.extend(helper.make_empty_tensor_value_info(value.name) for value in model.graph.output)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _small_constants(graph: onnx.GraphProto) -> set[str]:
    told = {tensor.name for tensor in graph.initializer}
    return told | {node.output[0] for node in graph.node if node.op_type == "Constant"}
