"""Opens the constants of a model of one row that have a row of their own: they are given to every row.

Recurrent layers start from states of zero, which is what they do without being told; and what is joined to
each row (the token that a vision transformer reads its answer from) is repeated for as many as come.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

_STATES: Final = {"RNN": (5,), "GRU": (5,), "LSTM": (5, 6)}
"""Which inputs of recurrent operators are the states that they start from."""
_SHAPES_ALONE: Final = frozenset({"Shape", "Size"})


def open_constants(
    graph: onnx.GraphProto, inputs: Collection[str], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Let what holds one row by itself follow the rows of the inputs; `shapes` are those of one row."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    holding = set(inputs)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in _STATES:
            _drop_zero_states(node, constants)
        elif node.op_type == "Concat":
            nodes.extend(_expanded(node, holding, shapes))
        if node.op_type not in _SHAPES_ALONE and not holding.isdisjoint(node.input):
            holding.update(node.output)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_zero_states(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> None:
    for place in _STATES[node.op_type]:
        name = node.input[place] if place < len(node.input) else ""
        if name in constants and not numpy_helper.to_array(constants[name]).any():
            node.input[place] = ""


def _expanded(
    node: onnx.NodeProto, holding: Collection[str], shapes: Mapping[str, Sequence[int]]
) -> list[onnx.NodeProto]:
    """Return the operators that repeat what is joined to rows; `node` then reads their outputs."""
    rows = next((name for name in node.input if name in holding), "")
    if not rows or not any(attribute.name == "axis" and attribute.i for attribute in node.attribute):
        return []
    made: list[onnx.NodeProto] = []
    for place, name in enumerate(node.input):
        shape = shapes.get(name, ())
        if name in holding or not shape or shape[0] != 1:
            continue
        own = f"{node.output[0]}/rows_{place}"
        made += [
            helper.make_node("Shape", [rows], [f"{own}_shape"]),
            _constant(f"{own}_first", [0]),
            helper.make_node("Gather", [f"{own}_shape", f"{own}_first"], [f"{own}_count"], axis=0),
            _constant(f"{own}_rest", shape[1:]),
            helper.make_node("Concat", [f"{own}_count", f"{own}_rest"], [f"{own}_wanted"], axis=0),
            helper.make_node("Expand", [name, f"{own}_wanted"], [own]),
        ]
        node.input[place] = own
    return made


def _constant(name: str, values: Sequence[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))
