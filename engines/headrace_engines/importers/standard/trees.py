"""TreeEnsembleRegressor, TreeEnsembleClassifier and TreeEnsemble."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.importers.standard import walk
from headrace_engines.importers.standard.forest import LEAF, Forest, Nodes, forest, listed, numbers, places
from headrace_engines.importers.standard.graph import DOUBLE, Graph, Operator, Unsuited
from headrace_engines.importers.standard.scores import (
    best_label,
    both_classes,
    label_above,
    labels_of,
    transformed,
)

_TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_AGGREGATES: Final = ("AVERAGE", "SUM", "MIN", "MAX")


def regressor(graph: Graph, operator: Operator) -> None:
    """TreeEnsembleRegressor: FP32 [rows, targets]."""
    targets = int(operator.attributes.get("n_targets", 1))
    trees = forest(listed(operator), _values(operator, "target", targets))
    scores = _aggregated(graph, operator, trees, operator.text("aggregate_function", "SUM"))
    base = numbers(operator, "base_values")
    if base.any():
        _check_all_scored(operator, "target", targets)
    scores = _with_base(graph, scores, base)
    graph.give(transformed(graph, scores, operator.text("post_transform", "NONE")), operator.outputs[0])


def classifier(graph: Graph, operator: Operator) -> None:
    """TreeEnsembleClassifier: labels [rows], and FP32 scores [rows, classes]."""
    labels = labels_of(operator, "classlabels_strings", "classlabels_int64s")
    trees = forest(listed(operator), _values(operator, "class", len(labels)))
    scored = np.unique(operator.integers("class_ids"))
    transform = operator.text("post_transform", "NONE")
    base = numbers(operator, "base_values")
    if len(labels) == 2 and len(scored) == 1:
        label, scores = _binary(graph, operator, trees, base, labels)
    else:
        if len(labels) == 2 or base.any():
            _check_all_scored(operator, "class", len(labels))
        raw = walk.summed(graph, _features(graph, operator), trees)
        scores = _with_base(graph, raw, base)
        # Of two classes that are both scored, the second wins by being above zero.
        label = (
            label_above(graph, graph.columns(scores, np.array([1])), 0, labels)
            if len(labels) == 2
            else best_label(graph, scores, labels)
        )
        scores = transformed(graph, scores, transform)
    graph.give(label, operator.outputs[0])
    graph.give(scores, operator.outputs[1] if len(operator.outputs) > 1 else "")


def _check_all_scored(operator: Operator, side: str, targets: int) -> None:
    """Raise Unsuited unless each row is given a score for each target, by a tree whose leaves all have one.

    What no leaf speaks of has no base value in ONNX Runtime either, and of two classes takes the other's.
    """
    ids = operator.integers(f"{side}_ids")
    where = places(operator, operator.integers(f"{side}_treeids"), operator.integers(f"{side}_nodeids"))
    kinds = np.asarray(operator.attributes["nodes_modes"])
    _, tree = np.unique(operator.integers("nodes_treeids"), return_inverse=True)
    leaves = np.bincount(tree[kinds == "LEAF"], minlength=tree.max(initial=0) + 1)
    spoken = np.unique(np.stack([where, ids]), axis=1)
    counts = np.zeros((len(leaves), targets), np.int64)
    np.add.at(counts, (tree[spoken[0]], spoken[1]), 1)
    if not (counts == leaves[:, None]).any(axis=0).all():
        raise Unsuited("rows that are given no score for a target")


def _binary(
    graph: Graph, operator: Operator, trees: Forest, base: NDArray[Any], labels: NDArray[Any]
) -> tuple[str, str]:
    """Return label and scores of two classes, of which the trees score one alone."""
    if len(base) > 1 or operator.integers("class_ids").any():
        raise Unsuited("two classes of which the second is scored, or that have base values each")
    single = replace(trees, values=trees.values[:, :1])
    score = _with_base(graph, walk.summed(graph, _features(graph, operator), single), base)
    are_shares = bool((numbers(operator, "class_weights") >= 0).all())
    label = label_above(graph, score, 0.5 if are_shares else 0, labels)
    transform = operator.text("post_transform", "NONE")
    if transform not in ("NONE", "LOGISTIC"):
        raise Unsuited(f"post_transform {transform} of one score")
    return label, both_classes(graph, score, transform, are_shares=are_shares)


def ensemble(graph: Graph, operator: Operator) -> None:
    """TreeEnsemble: the regressor in the form that came with version 5 of the machine-learning domain."""
    attributes = operator.attributes
    targets = int(attributes.get("n_targets", 1))
    leaves = len(attributes["leaf_targetids"])
    modes = np.asarray(attributes["nodes_modes"]).astype(np.int64)
    if (modes > LEAF - 1).any():
        raise Unsuited("nodes that ask for membership")
    decisions = len(modes)
    values = np.zeros((decisions + leaves, targets), np.float32)
    values[decisions + np.arange(leaves), operator.integers("leaf_targetids")] = attributes["leaf_weights"]
    given = Nodes(
        kind=np.concatenate([modes, np.full(leaves, LEAF)]),
        feature=_padded(operator.integers("nodes_featureids"), leaves),
        threshold=_padded(np.asarray(attributes["nodes_splits"]), leaves),
        when_true=_padded(_led(operator, "true", decisions), leaves),
        when_false=_padded(_led(operator, "false", decisions), leaves),
        missing_is_true=_padded(_missing(operator, decisions), leaves),
        roots=operator.integers("tree_roots"),
    )
    kind = _AGGREGATES[int(attributes.get("aggregate_function", 1))]
    scores = _aggregated(graph, operator, forest(given, values), kind)
    transform = _TRANSFORMS[int(attributes.get("post_transform", 0))]
    graph.give(transformed(graph, scores, transform), operator.outputs[0])


def _led(operator: Operator, branch: str, decisions: int) -> NDArray[np.int64]:
    led = operator.integers(f"nodes_{branch}nodeids")
    return led + decisions * operator.integers(f"nodes_{branch}leafs")


def _missing(operator: Operator, decisions: int) -> NDArray[np.bool_]:
    given = operator.integers("nodes_missing_value_tracks_true")
    return given.astype(bool) if given.size else np.zeros(decisions, bool)


def _padded(array: NDArray[Any], count: int) -> NDArray[Any]:
    return np.concatenate([array, np.zeros(count, array.dtype)])


def _values(operator: Operator, side: str, targets: int) -> NDArray[np.float32]:
    """Return what each listed node adds to each target, [nodes, targets]."""
    where = places(operator, operator.integers(f"{side}_treeids"), operator.integers(f"{side}_nodeids"))
    values = np.zeros((len(operator.integers("nodes_treeids")), targets), np.float64)
    np.add.at(values, (where, operator.integers(f"{side}_ids")), numbers(operator, f"{side}_weights"))
    return values.astype(np.float32)


def _aggregated(graph: Graph, operator: Operator, trees: Forest, kind: str) -> str:
    features = _features(graph, operator)
    match kind:
        case "SUM":
            return walk.summed(graph, features, trees)
        case "AVERAGE":
            return graph.add("Div", walk.summed(graph, features, trees), np.float32(len(trees.roots)))
        case "MIN" | "MAX" if trees.values.shape[1] == 1:
            return walk.extreme(graph, features, trees, f"Reduce{kind.title()}")
        case _:
            raise Unsuited(f"aggregate_function {kind}")


def _with_base(graph: Graph, scores: str, base: NDArray[Any]) -> str:
    return graph.add("Add", scores, base.astype(np.float32)) if base.any() else scores


def _features(graph: Graph, operator: Operator) -> str:
    """Return the features as FP32, which is what thresholds were rounded for."""
    if graph.tensor(operator.inputs[0]).element_type == DOUBLE:
        raise Unsuited("features in FP64")
    return graph.floats(operator.inputs[0])
