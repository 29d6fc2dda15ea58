"""Linear models as Gemm."""

from __future__ import annotations

from headrace_engines.importers.standard.graph import Graph, Operator, Unsuited
from headrace_engines.importers.standard.scores import (
    best_label,
    both_classes,
    label_above,
    labels_of,
    transformed,
)


def regressor(graph: Graph, operator: Operator) -> None:
    """LinearRegressor: [rows, features] to [rows, targets]."""
    targets = int(operator.attributes.get("targets", 1))
    transform = operator.text("post_transform", "NONE")
    if targets == 1 and transform != "NONE":  # ONNX Runtime leaves one target as it is, whatever the standard
        raise Unsuited(f"post_transform {transform} of one target")
    scores = _gemm(graph, operator, targets)
    graph.give(transformed(graph, scores, transform), operator.outputs[0])


def classifier(graph: Graph, operator: Operator) -> None:
    """LinearClassifier: [rows, features] to labels [rows] and scores [rows, classes]."""
    labels = labels_of(operator, "classlabels_strings", "classlabels_ints")
    targets = max(len(operator.floats("intercepts")), 1)
    scores = _gemm(graph, operator, targets)
    transform = operator.text("post_transform", "NONE")
    if targets == 1 and len(labels) == 2:
        if transform not in ("NONE", "LOGISTIC"):
            raise Unsuited(f"post_transform {transform} of one score")
        label = label_above(graph, scores, 0, labels)
        scores = both_classes(graph, scores, transform, are_shares=True)
    else:
        label = best_label(graph, scores, labels)
        scores = transformed(graph, scores, transform)
    graph.give(label, operator.outputs[0])
    graph.give(scores, operator.outputs[1] if len(operator.outputs) > 1 else "")


def _gemm(graph: Graph, operator: Operator, targets: int) -> str:
    weights = operator.floats("coefficients").reshape(targets, -1).T
    intercepts = operator.floats("intercepts")
    value = graph.floats(operator.inputs[0])
    return graph.add("Gemm", value, weights, *([intercepts] if intercepts.size else []))
