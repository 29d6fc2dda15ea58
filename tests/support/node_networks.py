"""Small ONNX networks, put together node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx import helper as oh

_RANDOM = np.random.default_rng(0)

Dims = Sequence[int | str | None]


def info(name: str, dims: Dims | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Describe an input or output; a dim that is text is open."""
    return oh.make_tensor_value_info(name, dtype, dims)


def network(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a model of these nodes."""
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = oh.make_graph(nodes, "net", inputs, outputs, held)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=8)


def drawn(*shape: int) -> NDArray[np.float32]:
    """Draw weights, the same in each run of the tests."""
    return _RANDOM.normal(size=shape).astype(np.float32)
