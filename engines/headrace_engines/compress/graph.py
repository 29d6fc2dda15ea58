"""A model's graph as compression sees it: optimised, every node named, layers with constant weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from headrace_engines.rows import Rows

_BATCH: Final = 64
_BATCH_VALUES: Final = 1 << 20
_SILENT: Final = 4

MATRIX: Final = ("Conv", "Gemm", "MatMul")
"""The operators that hold nearly all weights and take nearly all time."""


def prepared(model: Path) -> onnx.ModelProto:
    """Return the model with constants folded, batch normalisation fused and shapes inferred.

    Every node has a name of its own. The same model gives the same graph, so names found in one
    are good in another.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        found = onnx.load(optimised)
    _name(found.graph)
    _flatten_biases(found.graph)
    add_pre_process_metadata(found)  # or the library asks people to do this
    return onnx.shape_inference.infer_shapes(found)


def _name(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}#{index}"
        taken.add(node.name)


def _flatten_biases(graph: onnx.GraphProto) -> None:
    """Make biases of shape (1, N) one-dimensional, which quantisation per channel needs."""
    biases = {node.input[2] for node in graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for weight in graph.initializer:
        if weight.name in biases and len(weight.dims) == 2 and weight.dims[0] == 1:
            del weight.dims[0]


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the graph's constant tensors by name."""
    return {constant.name: constant for constant in graph.initializer}


def layers(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, NDArray[Any]]]:
    """Yield the matrix operators whose second operand, the weights, is constant, and that operand."""
    known = constants(graph)
    for node in graph.node:
        if node.op_type in MATRIX and node.input[1] in known:
            yield node, numpy_helper.to_array(known[node.input[1]])


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session that executes the graph as it stands, always adding up in the same order."""
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    return options


def batches(rows: Rows, graph: onnx.GraphProto) -> list[dict[str, NDArray[Any]]]:
    """Divide rows into batches of the size that the model takes, and of a bounded number of values.

    Rows that do not fill a last batch of a fixed size are left out.
    """
    count = min(len(array) for array in rows.values())
    size = fixed_batch(graph)
    if size:
        count -= count % size
    else:
        values = sum(array[:1].size for array in rows.values())
        size = max(1, min(_BATCH, _BATCH_VALUES // max(1, values)))
    return [
        {name: array[start : start + size] for name, array in rows.items()} for start in range(0, count, size)
    ]


def fixed_batch(graph: onnx.GraphProto) -> int:
    """Return how many rows the model takes at a time; 0 if any number."""
    known = constants(graph)
    for tensor in graph.input:
        dims = tensor.type.tensor_type.shape.dim
        if tensor.name not in known and dims and dims[0].HasField("dim_value"):
            return int(dims[0].dim_value)
    return 0
