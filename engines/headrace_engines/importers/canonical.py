"""One order of operators and one set of names for a graph, whatever an exporter's sets and counters gave.

Some exporters walk sets of objects, whose order is that of their addresses, and number what they make: the
same model becomes other bytes in each process. Here operators stand in the order in which the outputs
need them, and numbers in names count what comes in that order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import onnx

_NUMBER: Final = re.compile(r"__\d+")
_MADE_NAME: Final = "constant"


def canonise(model: onnx.ModelProto) -> None:
    """Order and rename what lies between a model's inputs and outputs, in place; the unused is dropped."""
    graph = model.graph
    _order(graph)
    kept = [tensor.name for tensor in (*graph.input, *graph.output)]
    _Names(kept).rename(graph, {name: name for name in kept})


def _order(graph: onnx.GraphProto) -> list[str]:
    """Order a graph and those inside of it by need; returns the names that it takes from around it."""
    taken = [[name for inner in _inner(node) for name in _order(inner)] for node in graph.node]
    maker = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    weights = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
    given = {tensor.name for tensor in graph.input}
    done = set(given)
    nodes: list[int] = []
    constants: list[int] = []
    free: list[str] = []
    waiting = [tensor.name for tensor in reversed(graph.output)]
    while waiting:
        name = waiting[-1]
        needs: list[str] = []
        if name not in done and name in maker:
            node = graph.node[maker[name]]
            needs = [each for each in (*node.input, *taken[maker[name]]) if each and each not in done]
            if not needs:
                nodes.append(maker[name])
                done.update(node.output)
        elif name not in done:
            done.add(name)
            if name in weights:
                constants.append(weights[name])
            else:
                free.append(name)
        if needs:
            waiting.extend(reversed(needs))
        else:
            waiting.pop()
    _arrange(graph.node, nodes)
    _arrange(graph.initializer, constants)
    return free


def _arrange(items: Any, order: list[int]) -> None:
    """Put the items of a repeated field into an order; those that are not in it go."""
    copies = [type(items[index]).FromString(items[index].SerializeToString()) for index in order]
    del items[:]
    items.extend(copies)


class _Names:
    """Gives names that are used nowhere else in a model."""

    def __init__(self, kept: list[str]) -> None:
        self._counts: dict[str, int] = dict.fromkeys(kept, 1)

    def rename(self, graph: onnx.GraphProto, outer: Mapping[str, str]) -> None:
        """Rename what a graph and those inside of it make; `outer` gives those around it by old name."""
        names = dict(outer)
        made: list[Any] = [*graph.input, *graph.initializer]
        for tensor in made:
            if tensor.name not in outer:
                names[tensor.name] = self._fresh(tensor.name if "/" in tensor.name else _MADE_NAME)
            tensor.name = names[tensor.name]
        for node in graph.node:
            for output in node.output:
                if output and output not in outer:
                    names[output] = self._fresh(output)
            node.name = self._fresh(node.name or node.op_type, "operator ")
            for position, name in enumerate(node.input):
                node.input[position] = names.get(name, name)
            for position, name in enumerate(node.output):
                node.output[position] = names.get(name, name)
            for inner in _inner(node):
                inner.name = self._fresh(inner.name, "graph ")
                self.rename(inner, names)
        for last in graph.output:
            last.name = names.get(last.name, last.name)

    def _fresh(self, name: str, space: str = "") -> str:
        base = _NUMBER.sub("", name).removesuffix(":0")
        count = self._counts.get(space + base, 0)
        self._counts[space + base] = count + 1
        if not count:
            return base
        return self._fresh(f"{base}_{count}", space)


def _inner(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        graph
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]
