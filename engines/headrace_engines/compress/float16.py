"""FP16: half the bytes, and the format that a GPU's matrix units take."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel

from headrace_engines.compress import graph
from headrace_engines.errors import UnsupportedModelError


def to_half(model: onnx.ModelProto, keep: Collection[str]) -> onnx.ModelProto:
    """Return a prepared model that computes in FP16 between inputs and outputs of the old datatypes.

    Nodes in `keep` compute in FP32. Raises UnsupportedModelError if no layer has weights to halve.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16  # it changes sys.path

    if not any(node.name not in keep for node, _ in graph.layers(model.graph)):
        raise UnsupportedModelError(f"nothing to halve: no {', '.join(graph.MATRIX)} with constant weights")
    halved = ONNXModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(keep)))
    halved.topological_sort()
    return onnx.ModelProto.FromString(halved.model.SerializeToString())
