"""Puts preprocessing into a graph, so that clients send pictures as they are: pixels, in UINT8.

Four bytes of FP32 become one on the wire, and no client has to know the mean of a data set.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.data.options import Pixels
from headrace_engines.errors import UnsupportedModelError

_PREFIX = "headrace_pixels"
_DONE = f"{_PREFIX}_done"
_CHANNELS = (1, 3, 4)


def fold(model: onnx.ModelProto, input_name: str, pixels: Pixels, *, channels_last: bool) -> onnx.ModelProto:
    """Return the model with `(pixel * scale - mean) / std` before its input, which then takes UINT8.

    With `channels_last` the input takes [batch, height, width, channels] where the model itself takes
    [batch, channels, height, width]. The input keeps its name. Raises UnsupportedModelError if it is no
    picture in FP32.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    tensor = next((one for one in graph.input if one.name == input_name), None)
    if tensor is None:
        names = ", ".join(repr(one.name) for one in graph.input)
        raise UnsupportedModelError(f"there is no input {input_name!r} to preprocess; there are {names}")
    shape = tensor.type.tensor_type.shape.dim
    if tensor.type.tensor_type.elem_type != TensorProto.FLOAT or len(shape) != 4:
        raise UnsupportedModelError(
            f"input {input_name!r} is no picture in FP32, [batch, channels, height, width]: there is nothing "
            "that preprocessing could be put before"
        )
    takes_channels_first = shape[1].dim_value in _CHANNELS
    turned = channels_last and takes_channels_first
    nodes = _scaling(graph, pixels, 1 if takes_channels_first and not turned else 3)
    if turned:
        nodes.append(helper.make_node("Transpose", nodes[-1].output[:], [""], perm=[0, 3, 1, 2]))
        channels, height, width = (size.dim_value for size in list(shape)[1:])
        for size, value in zip(list(shape)[1:], (height, width, channels), strict=True):
            size.dim_value = value
    _redirect(graph, input_name, _DONE)
    nodes[0].input[0] = input_name
    nodes[-1].output[0] = _DONE
    for node in reversed(nodes):
        node.name = f"{_PREFIX}_{node.op_type.lower()}"
        graph.node.insert(0, node)
    tensor.type.tensor_type.elem_type = TensorProto.UINT8
    onnx.checker.check_model(folded, full_check=True)
    return folded


def _scaling(graph: onnx.GraphProto, pixels: Pixels, channel_axis: int) -> list[onnx.NodeProto]:
    """Return Cast, Mul and Sub for the one multiplication and subtraction that all of it comes to."""
    mean, std = np.broadcast_arrays(np.asarray(pixels.mean, np.float64), np.asarray(pixels.std, np.float64))
    factor, offset = pixels.scale / std, mean / std
    shape = [1, 1, 1, 1]
    shape[channel_axis] = mean.size
    names = (f"{_PREFIX}_factor", f"{_PREFIX}_offset")
    for name, values in zip(names, (factor, offset), strict=True):
        array = np.ascontiguousarray(values.reshape(shape), np.float32)
        graph.initializer.append(numpy_helper.from_array(array, name))
    cast, scaled, moved = (f"{_PREFIX}_{step}" for step in ("cast", "scaled", "moved"))
    return [
        helper.make_node("Cast", [""], [cast], to=TensorProto.FLOAT),
        helper.make_node("Mul", [cast, names[0]], [scaled]),
        helper.make_node("Sub", [scaled, names[1]], [moved]),
    ]


def _redirect(graph: onnx.GraphProto, name: str, to: str) -> None:
    for node in graph.node:
        for at, operand in enumerate(node.input):
            if operand == name:
                node.input[at] = to
