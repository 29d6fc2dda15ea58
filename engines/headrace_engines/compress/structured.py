"""Structured pruning: whole hidden units and channels go, and the layers around them shrink.

What goes is what the rest of the layer explains: what it would say, the next layer can add up from
its neighbours. Which ones, a pivoted Cholesky decomposition of the activations' covariance tells,
weighted by what the next layers make of them; the next layers' weights then take over the share of
those that went by linear regression (Chee et al., "Model Preserving Compression for Neural
Networks", 2022). No labels are needed, only the calibration rows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from headrace_engines.compress import graph
from headrace_engines.compress.hidden import Hidden, Layout, find_hidden
from headrace_engines.compress.steps import PruneStructured
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.rows import Rows

_RIDGE: Final = 1e-4
"""Added to the variance of every channel as a share of it, so that few rows are not learnt by heart."""

_Matrix = NDArray[np.float64]


def prune_structured(
    model: onnx.ModelProto, how: PruneStructured, calibration: Rows, keep: Collection[str]
) -> onnx.ModelProto:
    """Return a prepared model with fewer hidden units and channels.

    Raises UnsupportedModelError if it has none, or none that the others explain.
    """
    found = list(find_hidden(model, keep))
    if not found:
        raise UnsupportedModelError(
            "nothing to prune: no hidden units or channels that only other layers read"
        )
    products = _products(model, found, calibration)
    removed = sum(_thin_out(model.graph, hidden, how, products) for hidden in found)
    if not removed:
        raise UnsupportedModelError("nothing to prune: no hidden unit or channel is explained by the others")
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def _products(model: onnx.ModelProto, found: list[Hidden], calibration: Rows) -> dict[str, _Matrix]:
    """Return, by the reader's name, products of the channels that it reads, summed over all samples.

    A last channel that is always one stands for the constant.
    """
    readers = [reader for hidden in found for reader in hidden.readers]
    observe = graph.Observer(model, (node.input[0] for node, _ in readers))
    products: dict[str, _Matrix] = {}
    for batch in graph.batches(calibration, model.graph):
        values = observe(batch)
        for node, layout in readers:
            samples = _samples(values[node.input[0]], layout)
            samples = np.concatenate([samples, np.ones((len(samples), 1))], axis=1)
            products[node.name] = products.get(node.name, 0) + samples.T @ samples
    return products


def _samples(values: NDArray[Any], layout: Layout) -> _Matrix:
    if layout.block > 1:
        values = values.reshape(len(values), -1, layout.block)
    return graph.samples(values, layout.axis)


def _thin_out(
    graph_: onnx.GraphProto, hidden: Hidden, how: PruneStructured, products: dict[str, _Matrix]
) -> int:
    """Remove what is explained from one layer's channels and return how many those were."""
    constants = graph.constants(graph_)
    covariance = np.zeros((hidden.size, hidden.size))
    for node, layout in hidden.readers:
        weights = _by_channel(node, numpy_helper.to_array(constants[node.input[1]]), layout)
        weight = np.sqrt(np.square(weights).sum(axis=(1, 2)))
        covariance += _covariance(products[node.name]) * np.outer(weight, weight)
    samples = min(int(products[node.name][-1, -1]) for node, _ in hidden.readers)
    stay = _selected(covariance, samples, how)
    if len(stay) == hidden.size:
        return 0
    for node, layout in hidden.readers:
        _take_over(graph_, node, layout, stay, products[node.name])
    _shrink(graph_, hidden, stay)
    return hidden.size - len(stay)


def _covariance(products: _Matrix) -> _Matrix:
    count = products[-1, -1]
    mean = products[-1, :-1] / count
    return np.asarray(products[:-1, :-1] / count - np.outer(mean, mean))


def _selected(covariance: _Matrix, samples: int, how: PruneStructured) -> NDArray[np.intp]:
    """Return the channels that explain the others well enough, by a pivoted Cholesky decomposition.

    What n samples leave unexplained by k channels understates what others would by (n / (n - k))²,
    as in any regression.
    """
    size = len(covariance)
    rest = np.diag(covariance).copy()
    total = rest.sum()
    nothing = size * np.finfo(np.float64).eps * total
    factor = np.zeros((size, size))
    chosen: list[int] = []
    while len(chosen) < min(size, samples - 1):
        unexplained = np.maximum(rest, 0).sum() * (samples / (samples - len(chosen))) ** 2
        if unexplained <= how.unexplained * total and len(chosen) % how.multiple == 0 and chosen:
            return np.sort(chosen)
        pivot = int(np.argmax(rest))
        done = len(chosen)
        column = covariance[:, pivot] - factor[:, :done] @ factor[pivot, :done]
        if column[pivot] > nothing:  # else the others explain it but for what rounding leaves
            factor[:, done] = column / np.sqrt(column[pivot])
        rest = np.maximum(rest - factor[:, done] ** 2, 0)
        chosen.append(pivot)
        rest[chosen] = -1
    return np.arange(size)


def _by_channel(node: onnx.NodeProto, weights: NDArray[Any], layout: Layout) -> _Matrix:
    """Return a reader's weights as [channels, places, outputs]: a place is one of the kernel or block."""
    inputs, outputs = graph.axes(node)
    rest = [axis for axis in range(weights.ndim) if axis not in (inputs, outputs)]
    ordered = weights.transpose(inputs, *rest, outputs).astype(np.float64)
    return ordered.reshape(weights.shape[inputs] // layout.block, -1, weights.shape[outputs])


def _restored(node: onnx.NodeProto, by_channel: _Matrix, like: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Undo `_by_channel`, for weights that were shaped as `like` but for the number of channels."""
    inputs, outputs = graph.axes(node)
    rest = [axis for axis in range(like.ndim) if axis not in (inputs, outputs)]
    sizes = [len(by_channel) * layout.block, *(like.shape[axis] for axis in rest), like.shape[outputs]]
    return by_channel.reshape(sizes).transpose(np.argsort([inputs, *rest, outputs])).astype(like.dtype)


def _take_over(
    graph_: onnx.GraphProto, node: onnx.NodeProto, layout: Layout, stay: NDArray[np.intp], products: _Matrix
) -> None:
    """Remove channels from a reader's weights; what they said, the others now say as well as they can."""
    weights = numpy_helper.to_array(graph.constants(graph_)[node.input[1]])
    by_channel = _by_channel(node, weights, layout)
    goes = np.setdiff1d(np.arange(len(by_channel)), stay)
    bias = _bias(graph_, node, weights)
    known = stay if bias is None else np.append(stay, len(by_channel))
    matrix = products[np.ix_(known, known)]
    varying = np.append(np.diag(_covariance(products)), 0) * products[-1, -1]
    ridge = _RIDGE * varying[known] + np.finfo(np.float32).tiny
    shares = np.linalg.solve(matrix + np.diag(ridge), products[np.ix_(known, goes)])
    moved = np.einsum("sg,gpo->spo", shares, by_channel[goes])
    restored = _restored(node, by_channel[stay] + moved[: len(stay)], weights, layout)
    graph.replace(graph_, node.input[1], restored)
    if bias is not None:
        values = numpy_helper.to_array(graph.constants(graph_)[bias])
        graph.replace(graph_, bias, (values + moved[-1].sum(axis=0)).astype(values.dtype))


def _bias(graph_: onnx.GraphProto, node: onnx.NodeProto, weights: NDArray[Any]) -> str | None:
    """Return the name of a Gemm's bias, which gets one if it has none; None if none can take anything over.

    In a convolution a constant would be wrong at the edges, where it is padded with zeros.
    """
    is_scaled = any(each.name in ("alpha", "beta") and each.f != 1 for each in node.attribute)
    if node.op_type != "Gemm" or is_scaled:
        return None
    outputs = weights.shape[graph.axes(node)[1]]
    if len(node.input) < 3:
        node.input.append(f"{node.name}~bias")
        zeros = np.zeros(outputs, weights.dtype)
        graph_.initializer.append(numpy_helper.from_array(zeros, node.input[2]))
    bias = graph.constants(graph_).get(node.input[2])
    uses = sum(name == node.input[2] for each in graph_.node for name in each.input)
    return node.input[2] if bias is not None and uses == 1 and list(bias.dims) == [outputs] else None


def _shrink(graph_: onnx.GraphProto, hidden: Hidden, stay: NDArray[np.intp]) -> None:
    """Remove channels from their maker and from whatever goes with them."""
    constants = graph.constants(graph_)
    for name, axis in hidden.constants.items():
        graph.replace(graph_, name, np.take(numpy_helper.to_array(constants[name]), stay, axis))
    for node in hidden.grouped:
        graph.set_attribute(node, "group", len(stay))
    for node in hidden.flattened:
        node.input[1] = f"{node.name}~shape"
        # The 0 stands for "as many as there are", which this would forbid.
        others = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(others)
        graph_.initializer.append(numpy_helper.from_array(np.array([0, -1], np.int64), node.input[1]))
