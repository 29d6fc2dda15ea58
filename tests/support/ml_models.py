"""Models of one operator of the machine-learning domain, and what they answer in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

ML_DOMAIN = "ai.onnx.ml"
Shape = Sequence[int | str | None] | None
Value = tuple[int, Shape]
"""An element type with a shape."""


def ml_model(
    kind: str,
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    *,
    opset: int = 17,
    ml_opset: int = 3,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model that is this operator alone."""
    node = helper.make_node(kind, list(inputs), list(outputs), "only", domain=ML_DOMAIN, **attributes)
    return graph_model([node], inputs, outputs, opset=opset, ml_opset=ml_opset)


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    constants: Sequence[TensorProto] = (),
    *,
    opset: int = 17,
    ml_opset: int = 3,
) -> onnx.ModelProto:
    """A model of these operators, whose tensors are described by element type and shape."""

    def described(values: Mapping[str, Value]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, *value) for name, value in values.items()]

    return helper.make_model(
        helper.make_graph(list(nodes), "graph", described(inputs), described(outputs), list(constants)),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ML_DOMAIN, ml_opset)],
        ir_version=8,
    )


def answers(model: onnx.ModelProto, *rows: NDArray[Any]) -> list[NDArray[Any]]:
    """What ONNX Runtime answers on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, rows, strict=True))))


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators of the main graph, those of other domains with their domain."""
    return [f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node]


def assert_same(given: list[NDArray[Any]], expected: list[NDArray[Any]], tolerance: float = 1e-6) -> None:
    """Answers of the same types and shapes, whose numbers differ by less than a share of their range."""
    for one, other in zip(given, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if one.dtype.kind == "f":
            scale = max(float(np.nanmax(np.abs(other), initial=0)), 1.0)
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)
        else:
            np.testing.assert_array_equal(one, other)
