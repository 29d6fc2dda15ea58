"""FP8 for TensorRT: quantise and dequantise nodes before matrix operators, one scale a tensor.

The largest value that was seen becomes the largest of the format: numbers in floating point are as
exact far below it, so nothing is gained by cutting any off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.compress import graph
from headrace_engines.compress.steps import QuantiseFloat8
from headrace_engines.rows import Rows

_OPSET: Final = 19
_LARGEST: Final = 448.0
"""The largest number of E4M3."""


def quantise_float8(
    model: onnx.ModelProto, how: QuantiseFloat8, calibration: Rows, keep: Collection[str]
) -> onnx.ModelProto:
    """Return a prepared model whose operators in `how.only` multiply FP8 numbers; not those in `keep`."""
    graph.check_weights(model.graph, keep)
    newer = graph.of_opset(model, _OPSET)
    nodes = [node for node in newer.graph.node if node.op_type in how.only and node.name not in keep]
    weights = graph.constants(newer.graph)
    operands = list(dict.fromkeys(name for node in nodes for name in node.input[:2]))
    largest = _largest(newer, [name for name in operands if name not in weights], calibration)
    placed: dict[str, list[onnx.NodeProto]] = {}
    for name in operands:
        values = numpy_helper.to_array(weights[name]) if name in weights else None
        peak = largest[name] if values is None else float(np.abs(values).max())
        placed[name] = list(_pair(newer.graph, name, values, peak / _LARGEST or 1.0))
    _insert(newer.graph, nodes, placed)
    _drop_unused(newer.graph)
    return newer


def _largest(model: onnx.ModelProto, tensors: Iterable[str], calibration: Rows) -> dict[str, float]:
    """Return the largest magnitude of each activation over all rows."""
    observe = graph.Observer(model, tensors)
    largest: dict[str, float] = {}
    for batch in graph.batches(calibration, model.graph):
        for name, values in observe(batch).items():
            largest[name] = max(largest.get(name, 0.0), float(np.abs(values).max(initial=0.0)))
    return largest


def _pair(
    graph_: onnx.GraphProto, name: str, values: NDArray[Any] | None, scale: float
) -> Iterator[onnx.NodeProto]:
    """Yield what makes a tensor's FP8 twin; weights are quantised at once and only dequantised."""
    scaling = [f"{name}~scale", f"{name}~zero"]
    graph_.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), scaling[0]))
    graph_.initializer.append(_float8(np.zeros((), np.float32), scaling[1]))
    if values is None:
        yield helper.make_node("QuantizeLinear", [name, *scaling], [f"{name}~fp8"], f"{name}~quantise")
    else:
        graph_.initializer.append(_float8(values / np.float32(scale), f"{name}~fp8"))
    yield helper.make_node(
        "DequantizeLinear", [f"{name}~fp8", *scaling], [f"{name}~near"], f"{name}~dequantise"
    )


def _float8(values: NDArray[Any], name: str) -> onnx.TensorProto:
    contents = values.astype(ml_dtypes.float8_e4m3fn).tobytes()
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, contents, raw=True)


def _insert(
    graph_: onnx.GraphProto, nodes: Collection[onnx.NodeProto], placed: dict[str, list[onnx.NodeProto]]
) -> None:
    """Let the nodes read the FP8 twins, each of which is made before the first that reads it."""
    names = {node.name for node in nodes}
    ordered: list[onnx.NodeProto] = []
    for node in graph_.node:
        if node.name in names:
            for index, name in enumerate(node.input[:2]):
                ordered.extend(placed[name])
                placed[name] = []
                node.input[index] = f"{name}~near"
        ordered.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph_.node[:]
    graph_.node.extend(copies)


def _drop_unused(graph_: onnx.GraphProto) -> None:
    """Remove constants that no node reads any more: the FP32 weights."""
    used = {name for node in graph_.node for name in node.input}
    kept = [constant for constant in graph_.initializer if constant.name in used]
    del graph_.initializer[:]
    graph_.initializer.extend(kept)
