"""The ONNX files of the repository: functions of the version's number that return a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

_KINDS: Final = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16, "BYTES": TensorProto.STRING,
}  # fmt: skip

LOOKUP: Final = (10, 20, 30, 40)
"""What `lookup` answers for 0, 1, 2 and 3; it fails for everything else."""

_Shape = Sequence[int | str | None]


def identity(datatype: str, *dims: int | None, batch: bool = True) -> Callable[[int], ModelProto]:
    """Return the maker of a model that answers `x` as `y`."""
    shape = ("N", *dims) if batch else dims

    def make(_version: int) -> ModelProto:
        node = helper.make_node("Identity", ["x"], ["y"])
        return _model([node], {"x": (datatype, shape)}, {"y": (datatype, shape)})

    return make


def adder(version: int) -> ModelProto:
    """Add the version's number."""
    column = {"x": ("FP32", ("N", 1))}
    node = helper.make_node("Add", ["x", "version"], ["y"])
    return _model([node], column, {"y": column["x"]}, {"version": np.array([version], np.float32)})


def simple(_version: int) -> ModelProto:
    """Add and subtract."""
    row = ("INT32", ("N", 16))
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    return _model(nodes, {"INPUT0": row, "INPUT1": row}, {"OUTPUT0": row, "OUTPUT1": row})


def lookup(_version: int) -> ModelProto:
    """Take a row of a table."""
    column = ("INT64", ("N", 1))
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    return _model([node], {"x": column}, {"y": column}, {"table": np.array(LOOKUP)})


def _model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[str, _Shape]],
    outputs: Mapping[str, tuple[str, _Shape]],
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> ModelProto:
    def infos(tensors: Mapping[str, tuple[str, _Shape]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, _KINDS[datatype], shape)
            for name, (datatype, shape) in tensors.items()
        ]

    stored = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
