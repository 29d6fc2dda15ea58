"""A model's graph as compression sees it: optimised, every node named, layers with constant weights."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.rows import Rows

_BATCH: Final = 64
_BATCH_VALUES: Final = 1 << 20
_SILENT: Final = 4
_MOST_BYTES: Final = 2**31

MIN_WEIGHTS: Final = 1024
"""With fewer weights in all its matrix operators, a model has nothing to gain from 8-bit numbers."""

MATRIX: Final = ("Conv", "Gemm", "MatMul")
"""The operators that hold nearly all weights and take nearly all time."""


def prepared(model: Path) -> onnx.ModelProto:
    """Return the model with constants folded, batch normalisation fused and shapes inferred.

    Every node has a name of its own. The same model gives the same graph, so names found in one
    are good in another. Raises UnsupportedModelError if the model is too large for one message.
    """
    _check_size(model)
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised)
        whole = onnx.load(model).SerializeToString()  # with the weights of other files
        onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
        found = onnx.load(optimised)
    _name(found.graph)
    _flatten_biases(found.graph)
    _drop_unused_domains(found)
    add_pre_process_metadata(found)  # or the library asks people to do this
    return onnx.shape_inference.infer_shapes(found)


def _check_size(model: Path) -> None:
    size = model.stat().st_size
    if size < _MOST_BYTES:
        graph = onnx.load(model, load_external_data=False).graph
        size += sum(_external_bytes(constant) for constant in graph.initializer)
    if size >= _MOST_BYTES:
        raise UnsupportedModelError(
            f"the model has {size:,} bytes; compression takes fewer than {_MOST_BYTES:,}"
        )


def _external_bytes(constant: TensorProto) -> int:
    """Return how many bytes of a constant lie in another file."""
    if constant.data_location != TensorProto.EXTERNAL:
        return 0
    return math.prod(constant.dims) * helper.tensor_dtype_to_np_dtype(constant.data_type).itemsize


def of_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return a prepared model in an operator set at least as new as this one, still prepared."""
    found = next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    if found >= version:
        return model
    newer = onnx.version_converter.convert_version(model, version)
    add_pre_process_metadata(newer)
    return onnx.shape_inference.infer_shapes(newer)


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


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """Remove the operator sets that ONNX Runtime always adds, as other runtimes know none of them."""
    used = set(_domains(model.graph))
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _domains(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield where the graph's operators come from, and those of graphs inside its nodes."""
    for node in graph.node:
        yield "" if node.domain == "ai.onnx" else node.domain
        for each in node.attribute:
            for inner in (each.g, *each.graphs):
                yield from _domains(inner)


def constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Return the graph's constant tensors by name."""
    return {constant.name: constant for constant in graph.initializer}


def layers(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, NDArray[Any]]]:
    """Yield the matrix operators whose second operand, the weights, is constant FP32, and that operand."""
    known = {name: each for name, each in constants(graph).items() if each.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in MATRIX and node.input[1] in known:
            yield node, numpy_helper.to_array(known[node.input[1]])


def check_weights(graph: onnx.GraphProto, keep: Collection[str]) -> None:
    """Raise UnsupportedModelError if the layers that need not be kept are too small for 8-bit numbers."""
    count = sum(weights.size for node, weights in layers(graph) if node.name not in keep)
    if count < MIN_WEIGHTS:
        raise UnsupportedModelError(
            f"nothing to quantise: {', '.join(MATRIX)} with constant FP32 weights hold {count} of them, "
            f"and fewer than {MIN_WEIGHTS} gain nothing"
        )


def own_layers(
    graph: onnx.GraphProto, keep: Collection[str]
) -> Iterator[tuple[onnx.NodeProto, NDArray[Any]]]:
    """Yield the layers whose weights may be changed: no other node reads them, and none is to be kept."""
    uses = Counter(name for node in graph.node for name in node.input)
    for node, weights in layers(graph):
        if node.name not in keep and uses[node.input[1]] == 1:
            yield node, weights


def samples(values: NDArray[Any], channels: int) -> NDArray[np.float64]:
    """Return an activation as a matrix [samples, channels], given the axis of its channels."""
    last = np.moveaxis(values, channels, -1)
    return last.reshape(-1, last.shape[-1]).astype(np.float64)


def axes(node: onnx.NodeProto) -> tuple[int, int]:
    """Return the axes of a layer's weights along which its inputs and its outputs lie."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 1, 0
    return 0, 1


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    """Give an integer attribute that the node has another value."""
    next(each for each in node.attribute if each.name == name).i = value


def integers(node: onnx.NodeProto, name: str) -> list[int]:
    """Return an attribute that is a list of integers; empty if the node has none."""
    return next(([*map(int, each.ints)] for each in node.attribute if each.name == name), [])


def replace(graph: onnx.GraphProto, name: str, values: NDArray[Any]) -> None:
    """Give the constant tensor other values, and maybe another shape."""
    constants(graph)[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


class Observer:
    """Executes a graph as it stands, always adding up in the same order, and shows chosen tensors."""

    def __init__(self, model: onnx.ModelProto, tensors: Iterable[str]) -> None:
        self._names = sorted(set(tensors))
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        there = {tensor.name for tensor in (*model.graph.output, *model.graph.input)}
        missing = (name for name in self._names if name not in there)
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the tensors' values for one batch, by name."""
        asked = [name for name in self._names if name not in batch]
        found = dict(zip(asked, self._session.run(asked, dict(batch)), strict=True)) if asked else {}
        return found | {name: batch[name] for name in self._names if name in batch}


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
