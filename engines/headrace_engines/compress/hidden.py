"""Finds hidden channels: one layer makes them, nodes hand them on one by one, other layers add them up.

Only where every way from the maker ends in a layer that adds the channels up, one of them can go
without anybody else noticing. A residual connection, for instance, has two makers, so it stays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

import onnx
from onnx import numpy_helper

from headrace_engines.compress import graph

_SINGLE: Final = frozenset(
    ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus",
     "Softsign", "Erf", "Gelu", "Mish", "Exp", "Log", "Sqrt", "Abs", "Neg", "Clip", "Identity", "Dropout")
)  # fmt: skip
_SEVERAL: Final = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min", "Sum"))
_POOLING: Final = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tensor has the channels: along `axis`, each of them `block` values in a row."""

    axis: int
    block: int = 1


_ADDED_UP: Final = Layout(0, 0)
"""Stands for the output of a layer that read the channels, which has them no more."""


@dataclass(slots=True)
class Hidden:
    """The `size` channels of one layer: what has to shrink with them, and who reads them.

    `constants` maps names of constants to the axis along which they have the channels; `grouped`
    are depthwise convolutions, `flattened` reshapes that lay channels side by side.
    """

    maker: onnx.NodeProto
    size: int
    constants: dict[str, int] = field(default_factory=dict)
    grouped: list[onnx.NodeProto] = field(default_factory=list)
    flattened: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[tuple[onnx.NodeProto, Layout]] = field(default_factory=list)


def find_hidden(model: onnx.ModelProto, keep: Collection[str]) -> Iterator[Hidden]:
    """Yield the channels that can be thinned out, in the order of their makers; none of nodes to keep."""
    if any(each.HasField("g") or each.graphs for node in model.graph.node for each in node.attribute):
        return  # a graph inside a node may read any tensor
    search = _Search(model.graph, keep)
    for node, weights in graph.own_layers(model.graph, keep):
        if weights.ndim == 2 or graph.attribute(node, "group", 1) == 1:
            found = search.follow(node, weights.shape[graph.axes(node)[1]])
            if found is not None:
                yield found


class _Search:
    """Follows channels through a graph whose nodes are in the order of execution."""

    def __init__(self, graph_: onnx.GraphProto, keep: Collection[str]) -> None:
        self._graph = graph_
        self._keep = keep
        self._constants = graph.constants(graph_)
        self._uses = Counter(name for node in graph_.node for name in node.input)
        self._outputs = {tensor.name for tensor in graph_.output}
        infos = (*graph_.input, *graph_.value_info, *graph_.output)
        self._shapes = {
            info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos
        }

    def follow(self, maker: onnx.NodeProto, size: int) -> Hidden | None:
        """Return what shrinks with the channels of a maker; None if something else needs them."""
        rank = len(self._shapes.get(maker.output[0], ()))
        hidden = Hidden(maker, size, {maker.input[1]: graph.axes(maker)[1]})
        if rank < 2 or not self._take(hidden, maker.input[2:3], 0):
            return None
        carried = {maker.output[0]: Layout(1 if maker.op_type == "Conv" else rank - 1)}
        for node in self._graph.node:
            if carried.keys() & set(node.input):
                layout = self._through(node, hidden, carried)
                if layout is None:
                    return None
                if layout != _ADDED_UP:
                    carried[node.output[0]] = layout
        return hidden if hidden.readers and not carried.keys() & self._outputs else None

    def _take(self, hidden: Hidden, names: Collection[str], axis: int) -> bool:
        """Let constants shrink with the channels, if nothing else needs them as they are."""
        for name in filter(None, names):
            constant = self._constants.get(name)
            if constant is None or self._uses[name] != 1 or list(constant.dims)[axis:][:1] != [hidden.size]:
                return False
            hidden.constants[name] = axis
        return True

    def _through(self, node: onnx.NodeProto, hidden: Hidden, carried: dict[str, Layout]) -> Layout | None:
        """Return where the node's output has the channels; None if it does more than hand them on."""
        layout = carried.get(node.input[0], Layout(0))
        operator = node.op_type if node.domain in ("", "ai.onnx") and len(node.output) == 1 else ""
        if operator in _SEVERAL:
            return self._join(node, hidden, carried)
        if node.input[0] not in carried or carried.keys() & set(node.input[1:]):
            return None
        if operator in _SINGLE:
            return layout
        if operator in graph.MATRIX:
            return self._layer(node, hidden, layout)
        if layout.block != 1:
            return None
        if operator in _POOLING:
            return layout if layout.axis == 1 else None
        if operator == "BatchNormalization":
            return layout if layout.axis == 1 and self._take(hidden, node.input[1:5], 0) else None
        moves: dict[str, Callable[[onnx.NodeProto, Hidden, Layout], Layout | None]] = {
            "Flatten": self._flatten,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
            "ReduceMean": self._reduce,
            "Squeeze": self._reduce,
        }
        return moves[operator](node, hidden, layout) if operator in moves else None

    def _join(self, node: onnx.NodeProto, hidden: Hidden, carried: dict[str, Layout]) -> Layout | None:
        """Follow an operator that takes several tensors value by value."""
        layouts = {carried[name] for name in node.input if name in carried}
        ranks = {len(self._shapes.get(name, ())) for name in node.input if name in carried}
        if len(layouts) != 1 or len(ranks) != 1:
            return None
        (layout,), (rank,) = layouts, ranks
        for name in set(node.input) - carried.keys():
            if name not in self._constants or len(self._constants[name].dims) > rank:
                return None
            dims = self._constants[name].dims
            axis = layout.axis - (rank - len(dims))
            is_same_for_all = axis < 0 or dims[axis] == 1
            if not is_same_for_all and (layout.block != 1 or not self._take(hidden, (name,), axis)):
                return None
        return layout

    def _layer(self, node: onnx.NodeProto, hidden: Hidden, layout: Layout) -> Layout | None:
        """Follow a layer: it adds the channels up, or is a depthwise convolution and hands them on."""
        weights = node.input[1]
        if node.name in self._keep or weights not in self._constants or self._uses[weights] != 1:
            return None
        dims = self._constants[weights].dims
        if node.op_type == "Conv":
            if layout != Layout(1):
                return None
            if graph.attribute(node, "group", 1) != 1:
                is_depthwise = dims[0] == hidden.size and dims[1] == 1
                if not is_depthwise or not self._take(hidden, node.input[1:3], 0):
                    return None
                hidden.grouped.append(node)
                return layout
        else:
            inputs = hidden.size * layout.block
            is_last = layout.axis == len(self._shapes.get(node.input[0], ())) - 1
            is_plain = len(dims) == 2 and not graph.attribute(node, "transA", 0)
            if not is_plain or not is_last or dims[graph.axes(node)[0]] != inputs:
                return None
        hidden.readers.append((node, layout))
        return _ADDED_UP

    def _flatten(self, node: onnx.NodeProto, hidden: Hidden, layout: Layout) -> Layout | None:
        block = math.prod(self._shapes.get(node.input[0], [0])[2:])
        is_by_row = graph.attribute(node, "axis", 1) == 1
        return Layout(1, block) if layout.axis == 1 and is_by_row and block else None

    def _reshape(self, node: onnx.NodeProto, hidden: Hidden, layout: Layout) -> Layout | None:
        """Follow a reshape that is a flattening; its shape is written anew when channels have gone."""
        block = math.prod(self._shapes.get(node.input[0], [0])[2:])
        if layout.axis != 1 or not block or node.input[1] not in self._constants:
            return None
        shape = numpy_helper.to_array(self._constants[node.input[1]]).tolist()
        if len(shape) != 2 or shape[1] not in (-1, hidden.size * block):
            return None
        hidden.flattened.append(node)
        return Layout(1, block)

    def _transpose(self, node: onnx.NodeProto, hidden: Hidden, layout: Layout) -> Layout | None:
        order = graph.integers(node, "perm")
        return Layout(order.index(layout.axis)) if layout.axis in order else None

    def _reduce(self, node: onnx.NodeProto, hidden: Hidden, layout: Layout) -> Layout | None:
        """Follow an operator that takes other axes away."""
        axes = graph.integers(node, "axes")
        if not axes and len(node.input) > 1 and node.input[1] in self._constants:
            axes = numpy_helper.to_array(self._constants[node.input[1]]).tolist()
        rank = len(self._shapes.get(node.input[0], ()))
        axes = [axis % rank for axis in axes]
        if not axes or layout.axis in axes:
            return None
        if node.op_type == "ReduceMean" and graph.attribute(node, "keepdims", 1):
            return layout
        return Layout(layout.axis - sum(axis < layout.axis for axis in axes))
