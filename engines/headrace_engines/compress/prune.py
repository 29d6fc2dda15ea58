"""Pruning that leaves shapes as they are: weights are set to zero, one by one or two of every four.

Zeros alone make nothing faster. A file of them packs better; and where two of every four
neighbouring weights are zero, sparse tensor cores skip them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from headrace_engines.compress import graph
from headrace_engines.compress.steps import PruneMagnitude
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.rows import Rows

_GROUP: Final = 4
_LEFT: Final = 2
_DAMPING: Final = 0.01
_TINY: Final = float(np.finfo(np.float32).tiny)
_MAX_INPUTS: Final = 4096
"""Moments of wider layers would fill the memory: of those the smallest weights go."""


def prune_magnitude(model: onnx.ModelProto, how: PruneMagnitude, keep: Collection[str]) -> onnx.ModelProto:
    """Return a prepared model without the smallest weights of each layer."""
    layers = list(graph.own_layers(model.graph, keep))
    if not layers:
        raise UnsupportedModelError(f"nothing to prune: no {', '.join(graph.MATRIX)} with constant weights")
    for node, weights in layers:
        smallest = np.argsort(np.abs(weights), axis=None, kind="stable")[: int(how.share * weights.size)]
        pruned = weights.copy()
        pruned.flat[smallest] = 0
        graph.replace(model.graph, node.input[1], pruned)
    return model


def prune_two_of_four(model: onnx.ModelProto, calibration: Rows, keep: Collection[str]) -> onnx.ModelProto:
    """Return a prepared model of whose weights two of every four along the inputs are zero.

    Those go that matter least for the calibration rows, and the others take over what they did
    (Frantar and Alistarh, "SparseGPT", 2023), in a convolution at each place of the kernel by
    itself. Inputs beyond the last four stay whole, and so do convolutions in groups.
    """
    layers = [
        (node, weights) for node, weights in graph.own_layers(model.graph, keep) if _divides(node, weights)
    ]
    if not layers:
        raise UnsupportedModelError("nothing to prune: no layer with constant weights has four inputs")
    moments = _moments(model, layers, calibration)
    for node, weights in layers:
        inputs, outputs = graph.axes(node)
        order = (*range(2, weights.ndim), outputs, inputs)
        places = weights.transpose(order)
        shape = places.shape
        moment = moments.get(node.input[0], np.eye(shape[-1]))
        pruned = [_pruned(place, moment) for place in places.reshape(-1, *shape[-2:])]
        restored = np.stack(pruned).reshape(shape).transpose(np.argsort(order))
        graph.replace(model.graph, node.input[1], restored.astype(weights.dtype))
    return model


def _divides(node: onnx.NodeProto, weights: NDArray[Any]) -> bool:
    return weights.shape[graph.axes(node)[0]] >= _GROUP and graph.attribute(node, "group", 1) == 1


def _moments(
    model: onnx.ModelProto, layers: Iterable[tuple[onnx.NodeProto, NDArray[Any]]], calibration: Rows
) -> dict[str, NDArray[np.float64]]:
    """Return for each layer's input how its channels vary together; not for the widest layers."""
    channels = {
        node.input[0]: 1 if node.op_type == "Conv" else -1
        for node, weights in layers
        if weights.shape[graph.axes(node)[0]] <= _MAX_INPUTS
    }
    observe = graph.Observer(model, channels)
    moments: dict[str, NDArray[np.float64]] = {}
    for batch in graph.batches(calibration, model.graph):
        for name, values in observe(batch).items():
            samples = graph.samples(values, channels[name])
            moments[name] = moments.get(name, 0) + samples.T @ samples
    return moments


def _pruned(weights: NDArray[Any], moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prune a matrix [outputs, inputs], going through the inputs four by four."""
    result = weights.astype(np.float64)
    damping = _DAMPING * max(float(np.trace(moment)) / len(moment), _TINY)
    factor = np.linalg.cholesky(np.linalg.inv(moment + damping * np.eye(len(moment)))).T
    diagonal = np.diag(factor)
    for start in range(0, result.shape[1] - _GROUP + 1, _GROUP):
        end = start + _GROUP
        scores = (result[:, start:end] / diagonal[start:end]) ** 2
        goes = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1) < _GROUP - _LEFT
        errors = np.zeros((len(result), _GROUP))
        for place in range(_GROUP):
            column = start + place
            errors[:, place] = np.where(goes[:, place], result[:, column] / diagonal[column], 0)
            result[goes[:, place], column] = 0
            result[:, column + 1 : end] -= np.outer(errors[:, place], factor[column, column + 1 : end])
        result[:, end:] -= errors @ factor[start:end, end:]
    return result
