"""Which layer suffers how much from compression, so that the worst can stay in FP32.

Each layer is judged by itself: it is given what the FP32 model computes up to there, so that no
error of an earlier layer counts as its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from headrace_engines.compress import graph
from headrace_engines.rows import Rows

_MADE: Final = "~made"
_EXACT_DB: Final = 150.0
"""What a layer without any error is given: FP32 itself resolves no more."""
_LOST_DB: Final = -_EXACT_DB
"""What a layer is given whose outputs are no numbers any more."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far one layer's outputs are from FP32's: signal over noise in decibels, less is worse."""

    name: str
    operator: str
    sqnr_db: float


def layers(model: Path) -> tuple[str, ...]:
    """Return the names of the nodes that `compress` can be told to keep in FP32, in their order."""
    return tuple(node.name for node in graph.prepared(model).graph.node if node.op_type in graph.MATRIX)


def errors(model: Path, compressed: Path, rows: Rows) -> tuple[LayerError, ...]:
    """Compare each layer of an FP32 model with the same one of what was made of it, worst first.

    Layers that compression replaced by another operator, or whose shape it changed, are left out.
    """
    reference, candidate = graph.prepared(model), onnx.shape_inference.infer_shapes(onnx.load(compressed))
    nodes = {node.name: node for node in candidate.graph.node}
    pairs = [
        (node, nodes[node.name])
        for node in reference.graph.node
        if node.op_type in graph.MATRIX and node.name in nodes
    ]
    given = _shared(reference, candidate)
    exact = graph.Observer(reference, {*given, *(node.output[0] for node, _ in pairs)})
    _cut(candidate, given)
    near = graph.Observer(candidate, (other.output[0] for _, other in pairs))
    powers: dict[str, NDArray[np.float64]] = {}
    for batch in graph.batches(rows, reference.graph):
        wanted = exact(batch)
        got = near({**batch, **{name: wanted[name].astype(dtype) for name, dtype in given.items()}})
        for node, other in pairs:
            signal, found = wanted[node.output[0]], got[other.output[0]]
            if signal.shape == found.shape:
                powers[node.name] = powers.get(node.name, 0) + _powers(signal, found)
    measured = (
        LayerError(node.name, node.op_type, _decibels(*powers[node.name]))
        for node, _ in pairs
        if node.name in powers
    )
    return tuple(sorted(measured, key=lambda error: error.sqnr_db))


def _shared(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """Return the tensors that both compute in the same shape, with their datatype in the candidate."""
    shapes = {info.name: _shape(info) for info in reference.graph.value_info}
    made = _made(reference) & _made(candidate)
    return {
        info.name: helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        for info in candidate.graph.value_info
        if info.name in made and shapes.get(info.name) == _shape(info)
    }


def _made(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


def _shape(info: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in info.type.tensor_type.shape.dim]


def _cut(model: onnx.ModelProto, given: Collection[str]) -> None:
    """Let nodes read the given tensors from the caller; what the graph makes of them gets other names."""
    infos = [info for info in model.graph.value_info if info.name in given]
    model.graph.input.extend(infos)
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name in given:
                node.output[index] = name + _MADE
    del model.graph.value_info[:]


def _powers(signal: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    exact = signal.astype(np.float64)
    return np.array([np.square(exact).sum(), np.square(exact - found).sum()])


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return _EXACT_DB
    if not math.isfinite(noise):  # a smaller number format overflowed
        return _LOST_DB
    return min(_EXACT_DB, 10 * math.log10(max(signal, np.finfo(np.float64).tiny) / noise))
