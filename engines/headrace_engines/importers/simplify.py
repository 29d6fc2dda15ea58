"""Folds constants and drops what a graph computes in vain.

ONNX Runtime's basic level does it: it is installed already, and quantisation applies the same before it
calibrates. Of convolutional networks a simplifier of its own leaves no operator less, and of a transformer
a seventh, in the arithmetic of shapes. What stays are operators of ONNX's own domain.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers import model_file
from headrace_engines.importers.standard.tidy import tidy

_LOG_FATAL: Final = 4
_MOST_BYTES: Final = 1 << 30
"""Of weights: what is written out of a model near the largest message may not fit into one."""


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same model in fewer operators, with the shapes that can be inferred.

    Raises UnsupportedModelError if ONNX Runtime does not take it.
    """
    _add_pairs(model.graph)
    if not is_large(model):
        model = folded(model)
        tidy(model)
        with suppress(onnx.shape_inference.InferenceError):  # an operator unlike its own rules
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    flatten_biases(model.graph)
    return model


def is_large(model: onnx.ModelProto) -> bool:
    """Whether the model may not fit into one message, in which libraries hand it on."""
    return model_file.weight_bytes(model) > _MOST_BYTES


def flatten_biases(graph: onnx.GraphProto) -> None:
    """Give the biases of Gemm one axis: per-channel quantisation fails at those of (1, N)."""
    biases = {node.input[2] for node in graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    read = [name for node in graph.node for name in node.input]
    for tensor in graph.initializer:
        is_row = len(tensor.dims) == 2 and tensor.dims[0] == 1
        if is_row and tensor.name in biases and read.count(tensor.name) == 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[0], tensor.name))


def _add_pairs(graph: onnx.GraphProto) -> None:
    """Make Add of each Sum of two tensors: it is the same, and what runtimes fuse and quantise."""
    for node in graph.node:
        if node.op_type == "Sum" and not node.domain and len(node.input) == 2:
            node.op_type = "Add"


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with all computed that does not depend on its inputs; as it is where it is too large.

    Raises UnsupportedModelError if ONNX Runtime does not take it.
    """
    if is_large(model):
        return model
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        path = Path(folder, "model.onnx")
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except (native.Fail, native.InvalidGraph, native.NotImplemented, native.InvalidArgument) as error:
            reason = " ".join(str(error).split()).split(" : ", 3)[-1]
            raise UnsupportedModelError(f"ONNX Runtime does not take the model: {reason}") from error
        result = onnx.load(path)
    # What it cannot compute in FP16 it would compute in FP32, on this machine's CPU alone.
    return model if _casts(result) > _casts(model) else result


def _casts(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Cast" for node in model.graph.node)
