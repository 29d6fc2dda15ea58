"""Support vector machines: kernels by products of matrices, decisions and probabilities from all pairs.

A distance between vectors that lie far from their middle loses its digits when it is put together from
products: |x|^2 - 2 x v + |v|^2 is a small difference of large numbers. A kernel that is that narrow beside
its vectors takes their differences one by one, which costs rows x vectors x features of memory, and which a
CPU does faster, and as exactly, with the operator as it is (`is_wide`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from headrace_engines.importers.standard.graph import FLOAT, INT64, Graph, Operator, Unsuited
from headrace_engines.importers.standard.scores import best_label, flags, labels_of

_LEAST_PROBABILITY: Final = np.float32(1e-7)
_COUPLING_ERROR: Final = 0.005
"""The coupling of all pairs ends when it is wrong by this, divided by the number of classes."""
_MOST_ROUNDS: Final = 100
_WIDEST: Final = 16.0
"""Up to this gamma |v - mean|^2, products leave a kernel all but a few of its last digits."""
_AT_ONCE_ELEMENTS: Final = 65_536
"""So many differences of a row are held at a time."""


def is_wide(operator: Operator) -> bool:
    """Whether the support vectors lie so far apart that products of FP32 do not tell their distances."""
    if operator.text("kernel_type", "LINEAR") != "RBF":
        return False
    count = int(operator.attributes.get("n_supports", 0)) or int(operator.integers("vectors_per_class").sum())
    if not count:
        return False
    vectors = operator.floats("support_vectors").reshape(count, -1).astype(np.float64)
    (gamma, *_) = operator.floats("kernel_params")
    farthest = ((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).max()
    return bool(gamma * farthest > _WIDEST)


def regressor(graph: Graph, operator: Operator) -> None:
    """SVMRegressor: FP32 [rows, 1]; with `one_class` 1 for what is like the training data, else -1."""
    if operator.text("post_transform", "NONE") != "NONE":
        raise Unsuited("post_transform")
    supports = int(operator.attributes.get("n_supports", 0))
    coefficients = operator.floats("coefficients")
    weights, rho = coefficients.reshape(-1, 1), operator.floats("rho")[:1]
    if supports:
        vectors = operator.floats("support_vectors").reshape(supports, -1)
        score = _scores(graph, operator, vectors, weights, rho)
    else:
        score = graph.add("Gemm", graph.floats(operator.inputs[0]), weights, rho)
    if operator.attributes.get("one_class", 0):
        score = graph.add("Where", graph.add("Greater", score, np.float32(0)), np.float32(1), np.float32(-1))
    graph.give(score, operator.outputs[0])


def classifier(graph: Graph, operator: Operator) -> None:
    """SVMClassifier: labels [rows] by votes; probabilities [rows, classes], or the scores of all pairs."""
    labels = labels_of(operator, "classlabels_strings", "classlabels_ints")
    counts = operator.integers("vectors_per_class")
    if not counts.sum() or operator.text("post_transform", "NONE") != "NONE":
        raise Unsuited("a linear machine, or post_transform")
    vectors = operator.floats("support_vectors").reshape(int(counts.sum()), -1)
    pairs = [(one, other) for one in range(len(labels)) for other in range(one + 1, len(labels))]
    rho = operator.floats("rho")[: len(pairs)]
    scores = _scores(graph, operator, vectors, _pair_weights(operator, counts, pairs), rho)
    graph.give(_voted(graph, scores, pairs, labels), operator.outputs[0])
    if operator.floats("prob_a").size:
        result = _coupled(graph, _pair_probabilities(graph, operator, scores), pairs, len(labels))
    elif len(labels) == 2:
        result = graph.add("Concat", graph.add("Neg", scores), scores, axis=1)
    else:
        result = scores
    graph.give(result, operator.outputs[1] if len(operator.outputs) > 1 else "")


def _scores(
    graph: Graph,
    operator: Operator,
    vectors: NDArray[np.float32],
    weights: NDArray[np.float32],
    rho: NDArray[np.float32],
) -> str:
    """Return what all support vectors say, weighed; with a linear kernel they are one matrix beforehand."""
    if operator.text("kernel_type", "LINEAR") == "LINEAR":
        folded = (vectors.T.astype(np.float64) @ weights.astype(np.float64)).astype(np.float32)
        return graph.add("Gemm", graph.floats(operator.inputs[0]), folded, rho)
    return graph.add("Gemm", _kernel(graph, operator, vectors), weights, rho)


def _kernel(graph: Graph, operator: Operator, vectors: NDArray[np.float32]) -> str:
    """Return [rows, vectors], how near each row is to each support vector."""
    gamma, offset, degree = (*operator.floats("kernel_params"), 0, 0, 0)[:3]
    value = graph.floats(operator.inputs[0])
    kind = operator.text("kernel_type", "LINEAR")
    if kind == "RBF":
        distance = (_differences if is_wide(operator) else _products)(graph, value, vectors)
        return graph.add("Exp", graph.add("Mul", distance, np.float32(-gamma)))
    product = graph.add("MatMul", value, vectors.T)
    scaled = graph.add("Add", graph.add("Mul", product, np.float32(gamma)), np.float32(offset))
    if kind == "SIGMOID":
        return graph.add("Tanh", scaled)
    if kind == "POLY":
        return graph.add("Pow", scaled, np.float32(degree))
    raise Unsuited(f"kernel {kind}")


def _products(graph: Graph, value: str, vectors: NDArray[np.float32]) -> str:
    """Return |x - v|^2 by |x|^2 - 2 x v + |v|^2, about the vectors' mean: so little cancels."""
    middle = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    vectors = vectors - middle
    value = graph.add("Sub", value, middle)
    own = graph.reduced("ReduceSumSquare", value, 1)
    lengths = (vectors.astype(np.float64) ** 2).sum(axis=1).astype(np.float32)
    crossed = graph.add("Gemm", value, -2 * vectors.T, lengths)
    return graph.add("Max", graph.add("Add", crossed, own), np.float32(0))


def _differences(graph: Graph, value: str, vectors: NDArray[np.float32]) -> str:
    """Return |x - v|^2 by the differences themselves, some vectors at a time."""
    apart = graph.add("Unsqueeze", value, np.array([1]))
    step = max(1, _AT_ONCE_ELEMENTS // vectors.shape[1])
    parts = [
        graph.reduced(
            "ReduceSumSquare", graph.add("Sub", apart, vectors[start : start + step]), 2, keepdims=False
        )
        for start in range(0, len(vectors), step)
    ]
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def _pair_weights(
    operator: Operator, counts: NDArray[np.int64], pairs: list[tuple[int, int]]
) -> NDArray[np.float32]:
    """Return [vectors, pairs]: what each support vector says for the first class of each pair."""
    ends = np.cumsum(counts)
    coefficients = operator.floats("coefficients").reshape(len(counts) - 1, -1)
    weights = np.zeros((int(ends[-1]), len(pairs)), np.float32)
    for column, (one, other) in enumerate(pairs):
        first = slice(ends[one] - counts[one], ends[one])
        second = slice(ends[other] - counts[other], ends[other])
        weights[first, column] = coefficients[other - 1, first]
        weights[second, column] = coefficients[one, second]
    return weights


def _voted(graph: Graph, scores: str, pairs: list[tuple[int, int]], labels: NDArray[Any]) -> str:
    votes = np.zeros((len(pairs), len(labels)), np.float32)
    fixed = np.zeros(len(labels), np.float32)
    for row, (one, other) in enumerate(pairs):
        votes[row, one], votes[row, other] = 1, -1
        fixed[other] += 1
    won = flags(graph, graph.add("Greater", scores, np.float32(0)))
    return best_label(graph, graph.add("Gemm", won, votes, fixed), labels)


def _pair_probabilities(graph: Graph, operator: Operator, scores: str) -> str:
    """Return [rows, pairs], how probable the first class of each pair is if it is one of the two."""
    slope, offset = operator.floats("prob_a"), operator.floats("prob_b")
    odds = graph.add("Sub", graph.add("Mul", scores, -slope), offset)
    least, most = _LEAST_PROBABILITY, np.float32(1 - _LEAST_PROBABILITY)
    return graph.add("Clip", graph.add("Sigmoid", odds), least, most)


def _coupled(graph: Graph, probabilities: str, pairs: list[tuple[int, int]], classes: int) -> str:
    """Return [rows, classes] from all pairs, by the second method of Wu, Lin and Weng.

    Its rounds end for each row when that row is nearly settled, so a row's answer does not depend on
    its neighbours, and is what the library with the same rule answers.
    """
    first, second = np.array(pairs).T
    # place[i, j] is where r_ij stands among the pairs and, behind them, their complements.
    place = np.zeros((classes, classes), np.int64)
    place[first, second] = np.arange(len(pairs))
    place[second, first] = np.arange(len(pairs)) + len(pairs)
    both = graph.add("Concat", probabilities, graph.add("Sub", np.float32(1), probabilities), axis=1)
    off = (1 - np.eye(classes)).astype(np.float32)
    shape = np.array([0, classes, classes])
    ratio = graph.add("Reshape", graph.columns(both, place.reshape(-1)), shape)
    turned = graph.add("Reshape", graph.columns(both, place.T.reshape(-1).copy()), shape)
    crossed = graph.add("Mul", graph.add("Mul", ratio, turned), -off)
    squares = graph.add("Mul", graph.add("Mul", turned, turned), off)
    diagonal = graph.reduced("ReduceSum", squares, 2)
    matrix = graph.add("Add", crossed, graph.add("Mul", diagonal, np.eye(classes, dtype=np.float32)))
    row = graph.columns(both, np.zeros(classes, np.int64))
    start = graph.add("Add", graph.add("Mul", row, np.float32(0)), np.float32(1 / classes))
    body = _round(graph, matrix, classes)
    return graph.add("Loop", np.int64(_MOST_ROUNDS), np.array(True), start, body=body)


def _round(graph: Graph, matrix: str, classes: int) -> Any:
    """Return the loop's body, which takes probabilities [rows, classes] one round further."""
    outer, graph.nodes = graph.nodes, []
    count, keep, given = (graph.name(name) for name in ("round", "goes_on", "probabilities"))
    value = graph.add("Identity", given)
    product = graph.reduced(
        "ReduceSum", graph.add("Mul", matrix, graph.add("Unsqueeze", value, np.array([1]))), 2, keepdims=False
    )
    mean = graph.reduced("ReduceSum", graph.add("Mul", value, product), 1)
    error = graph.reduced("ReduceMax", graph.add("Abs", graph.add("Sub", product, mean)), 1)
    is_moving = graph.add("GreaterOrEqual", error, np.float32(_COUPLING_ERROR / classes))
    for place in range(classes):
        own = graph.add("Gather", matrix, np.int64(place), axis=1)
        weight, at = (graph.columns(name, np.array([place])) for name in (own, product))
        change = graph.add("Div", graph.add("Sub", mean, at), weight)
        whole = graph.add("Add", change, np.float32(1))
        inner = graph.add("Add", graph.add("Mul", change, weight), graph.add("Add", at, at))
        moved = graph.add("Add", mean, graph.add("Mul", change, inner))
        mean = graph.add("Div", graph.add("Div", moved, whole), whole)
        product = graph.add("Div", graph.add("Add", product, graph.add("Mul", change, own)), whole)
        only = np.eye(classes, dtype=np.float32)[place]
        value = graph.add("Div", graph.add("Add", value, graph.add("Mul", change, only)), whole)
    result = graph.add("Where", is_moving, value, given)
    moving = graph.add("Cast", is_moving, to=INT64)
    any_moving = graph.add("ReduceMax", moving, keepdims=0)
    goes_on = graph.add("Greater", any_moving, np.int64(0))
    nodes, graph.nodes = graph.nodes, outer
    return helper.make_graph(
        nodes,
        graph.name("round"),
        [
            helper.make_tensor_value_info(count, TensorProto.INT64, []),
            helper.make_tensor_value_info(keep, TensorProto.BOOL, []),
            helper.make_tensor_value_info(given, FLOAT, ["batch", classes]),
        ],
        [
            helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []),
            helper.make_tensor_value_info(result, FLOAT, ["batch", classes]),
        ],
    )
