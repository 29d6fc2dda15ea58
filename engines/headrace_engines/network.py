"""What a network is made of: its layers, their operators and how many parameters each has.

Read from an ONNX file without its weights where those lie in files of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from headrace_engines import files
from headrace_engines.errors import ModelFileError


@dataclass(frozen=True, slots=True)
class NetworkLayer:
    """One node of the graph; `parameters` are the numbers of its weights, counted where first used."""

    name: str
    operator: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Network:
    """A graph in the order of its execution; `opsets` are versions by the domain of the operators used."""

    layers: tuple[NetworkLayer, ...]
    opsets: dict[str, int]
    producer: str

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def operators(self) -> list[tuple[str, int, int]]:
        """Each operator with how many layers and parameters it has, what has most of them first."""
        layers = Counter(layer.operator for layer in self.layers)
        parameters: Counter[str] = Counter()
        for layer in self.layers:
            parameters[layer.operator] += layer.parameters
        return sorted(
            ((operator, count, parameters[operator]) for operator, count in layers.items()),
            key=lambda told: (-told[2], -told[1], told[0]),
        )


def network(path: Path) -> Network:
    """Read an ONNX file. Raises ModelFileError if it is none."""
    files.check(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelFileError(f"{path.name}: it cannot be parsed: {files.nature(path)}") from error
    sizes = {weights.name: math.prod(weights.dims) for weights in model.graph.initializer}
    used = {_domain(node.domain) for node in model.graph.node}
    opsets = {_domain(opset.domain): opset.version for opset in model.opset_import}
    opsets = {domain: version for domain, version in opsets.items() if domain in used}
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return Network(tuple(_layers(model.graph, sizes)), opsets, producer)


def _layers(graph: onnx.GraphProto, sizes: dict[str, int]) -> Iterator[NetworkLayer]:
    for number, node in enumerate(graph.node):
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        own = sum(sizes.pop(name, 0) for name in node.input)
        inside = sum(_parameters(attribute) for attribute in node.attribute)
        yield NetworkLayer(node.name or f"{node.op_type}_{number}", operator, own + inside)


def _domain(domain: str) -> str:
    return domain or "ai.onnx"


def _parameters(attribute: onnx.AttributeProto) -> int:
    """Count what a node carries itself, as trees and constants do."""
    single = math.prod(attribute.t.dims) if attribute.HasField("t") else 0
    nested = sum(math.prod(weights.dims) for weights in attribute.g.initializer)
    return single + nested + (len(attribute.floats) if len(attribute.floats) > 1 else 0)
