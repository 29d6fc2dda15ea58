"""What classifiers do with their scores: probabilities, and the label of the best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.importers.standard.graph import FLOAT, INT64, Graph, Operator, Unsuited

_ZERO = 1e-7
"""Scores closer to zero than this are none for SOFTMAX_ZERO."""


def transformed(graph: Graph, scores: str, transform: str) -> str:
    """Return scores [rows, classes] after the operator's `post_transform`."""
    match transform:
        case "NONE":
            return scores
        case "LOGISTIC":
            return graph.add("Sigmoid", scores)
        case "SOFTMAX":
            return graph.add("Softmax", scores, axis=-1)
        case "SOFTMAX_ZERO":
            return _softmax_of_the_others(graph, scores)
        case _:
            raise Unsuited(f"post_transform {transform}")


def _softmax_of_the_others(graph: Graph, scores: str) -> str:
    """Return a softmax over the scores that are not zero; those that are hardly count."""
    largest = graph.reduced("ReduceMax", scores, -1)
    counts = graph.add("Greater", graph.add("Abs", scores), np.float32(_ZERO))
    powers = graph.add("Exp", graph.add("Sub", scores, largest))
    zero = np.float32(0)
    total = graph.reduced("ReduceSum", graph.add("Where", counts, powers, zero), -1)
    rest = graph.add("Mul", scores, graph.add("Exp", graph.add("Neg", largest)))
    return graph.add("Div", graph.add("Where", counts, powers, rest), total)


def both_classes(graph: Graph, score: str, transform: str, *, are_shares: bool) -> str:
    """Return [rows, 2] from the score of the second class alone, [rows, 1].

    The first class's is the negative, or what is missing to one where scores `are_shares` of votes; a
    logistic transform makes probabilities of the score and its negative.
    """
    if are_shares and transform == "NONE":
        return graph.add("Concat", graph.add("Sub", np.float32(1), score), score, axis=1)
    pair = graph.add("Concat", graph.add("Neg", score), score, axis=1)
    return graph.add("Sigmoid", pair) if transform == "LOGISTIC" else pair


def labels_of(operator: Operator, *names: str) -> NDArray[Any]:
    """Return the classes from the first of the attributes that has any, as INT64 or text."""
    for name in names:
        given = operator.attributes.get(name)
        if given is not None and len(given):
            return np.array(given, object if isinstance(given[0], str) else np.int64)
    raise Unsuited("no labels")


def best_label(graph: Graph, scores: str, labels: NDArray[Any]) -> str:
    """Return the label [rows] of the highest score; the first of equals."""
    return label_at(graph, graph.add("ArgMax", scores, axis=1, keepdims=0), labels)


def label_above(graph: Graph, score: str, threshold: float, labels: NDArray[Any]) -> str:
    """Return the second label [rows] where a score [rows, 1] lies above the threshold, else the first."""
    above = graph.add("Greater", graph.flat(score), np.float32(threshold))
    return label_at(graph, graph.add("Cast", above, to=INT64), labels)


def label_at(graph: Graph, place: str, labels: NDArray[Any]) -> str:
    """Return the labels at places of type INT64."""
    if labels.dtype == np.int64 and np.array_equal(labels, np.arange(len(labels))):
        return place
    return graph.add("Gather", labels, place, axis=0)


def flags(graph: Graph, truth: str) -> str:
    """Return truths as FP32 zeros and ones."""
    return graph.add("Cast", truth, to=FLOAT)
