"""Opens the constants by which a model of a fixed number of rows reshapes its tensors.

What such a constant has to say for any number is told by the shapes before and behind it: the rows lie
on one axis of what comes, and they lie on that axis of what leaves which has as many elements in front of
it. So the shapes are inferred twice, as the model was and with many times the rows, and each reshape gets
its constant anew, from the first to the last.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Opened:
    """The shape that a reshape takes for any number of rows.

    The rows are on the axis that is to be inferred. `is_inner` says that they share it with what stands
    before them: that counts slower.
    """

    shape: tuple[int, ...]
    is_inner: bool


def open_reshapes(model: onnx.ModelProto, inputs: Sequence[str], rows: int) -> list[str]:
    """Let every reshape follow the number of rows on the first axis of the inputs, which is fixed at `rows`.

    Returns the names of the tensors that follow now and have their rows on the first axis. What cannot be
    told stays: executing the model shows whether it had to change.
    """
    before = known_shapes(model, inputs, rows)
    waiting = {node.output[0]: node for node in model.graph.node if node.op_type == "Reshape"}
    constants = _small_constants(model.graph)
    followed: list[str] = []
    inner: set[str] = set()
    while waiting:
        after = known_shapes(model, inputs, rows * _TIMES)
        holding = _behind(model.graph, inner)
        for name in _first(model.graph, waiting):
            node = waiting.pop(name)
            came, grown, left = (before.get(node.input[0]), after.get(node.input[0]), before.get(name))
            if node.input[1] not in constants or came is None or grown is None or left is None:
                continue
            opened = opened_shape(came, grown, left, rows, is_inner=node.input[0] in holding)
            if opened is None:
                continue
            constant = numpy_helper.from_array(np.array(opened.shape, np.int64), f"{name}/rows_shape")
            model.graph.initializer.append(constant)
            node.input[1] = constant.name
            if opened.is_inner:
                inner.add(name)
            elif opened.shape[0] == _INFERRED and left[0] == rows:
                followed.append(name)
    return followed


def opened_shape(
    came: Sequence[int], grown: Sequence[int], left: Sequence[int], rows: int, *, is_inner: bool = False
) -> Opened | None:
    """Return the shape for any number of rows that is `left` for `rows`; None where nothing has to change.

    `came` is the shape that is reshaped, `grown` the same for more rows, which are inner on their axis or
    not. They leave on an axis of their own where one fits; else they are joined to another, which is not
    the last: that counts features.
    """
    axes = [axis for axis, sizes in enumerate(zip(came, grown, strict=True)) if sizes[0] != sizes[1]]
    if len(axes) != 1 or grown[axes[0]] != _TIMES * came[axes[0]]:
        return None
    in_front = math.prod(came[: axes[0]]) * (came[axes[0]] // rows if is_inner else 1)
    fronts = [math.prod(left[:axis]) for axis in range(len(left))]
    leading = [axis for axis, size in enumerate(left) if fronts[axis] == in_front and size % rows == 0]
    alone = [axis for axis in leading if left[axis] == rows]
    joined = [axis for axis in leading if axis != len(left) - 1]
    trailing = [axis for axis, size in enumerate(left) if fronts[axis] * size == in_front * rows]
    likely = [*alone, *joined, *trailing, *leading]
    if not likely:
        return None
    axis = likely[0]
    shape = (*left[:axis], _INFERRED, *left[axis + 1 :])
    return Opened(shape, is_inner=axis not in leading)


def _behind(graph: onnx.GraphProto, names: Collection[str]) -> set[str]:
    """Return these tensors and all that are computed of them without another order of their axes."""
    behind = set(names)
    for node in graph.node:
        if node.op_type not in ("Reshape", "Transpose") and not behind.isdisjoint(node.input):
            behind.update(node.output)
    return behind


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
