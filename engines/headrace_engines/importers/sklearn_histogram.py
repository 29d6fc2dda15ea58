"""Histogram-based gradient boosting of scikit-learn, with its categories, links and missing values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.importers.sklearn_categories import Sets, add_columns, sets_of


def rounded_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest FP32 that is not greater: x <= threshold is x <= this for each FP32 x."""
    nearest = np.asarray(thresholds).astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


@dataclass(slots=True)
class _Nodes:
    """Nodes and leaves of trees as the operators' attributes."""

    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: []
            for name in (
                "treeids",
                "nodeids",
                "featureids",
                "modes",
                "values",
                "truenodeids",
                "falsenodeids",
                "missing_value_tracks_true",
            )
        }
    )
    leaves: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    )

    def split(
        self,
        tree: int,
        node: int,
        feature: int,
        threshold: float,
        left: int,
        right: int,
        missing: bool = False,
    ) -> None:
        """Add a node that leads left where the feature is at most the threshold."""
        row = (tree, node, feature, "BRANCH_LEQ", threshold, left, right, int(missing))
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)

    def leaf(self, tree: int, node: int, target: int, weight: float) -> None:
        """Add a leaf."""
        row = (tree, node, 0, "LEAF", 0.0, 0, 0, 0)
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)
        for column, value in zip(self.leaves.values(), (tree, node, target, weight), strict=True):
            column.append(value)

    def attributes(self, side: str) -> dict[str, list[Any]]:
        """Return the attributes; `side` is what the operator calls the leaves' ends: class or target."""
        return {
            **{f"nodes_{name}": values for name, values in self.columns.items()},
            **{f"{side}_{name}": values for name, values in self.leaves.items()},
        }


def histogram(scope: Any, operator: Any, container: Any) -> None:
    """Write a HistGradientBoosting estimator: the sets of its categories, its trees, and its link."""
    estimator = operator.raw_operator
    targets = estimator.n_trees_per_iteration_
    sets = sets_of(estimator)
    nodes = _trees(estimator, sets)
    features = add_columns(scope, operator, container, sets)
    base = np.ravel(estimator._baseline_prediction).astype(np.float32).tolist()
    if hasattr(estimator, "classes_"):
        classes = list(estimator.classes_)
        labels = (
            {"classlabels_strings": [str(each) for each in classes]}
            if isinstance(classes[0], str)
            else {"classlabels_int64s": [int(each) for each in classes]}
        )
        container.add_node(
            "TreeEnsembleClassifier",
            features,
            [output.full_name for output in operator.outputs],
            op_domain="ai.onnx.ml",
            name=scope.get_unique_operator_name("TreeEnsembleClassifier"),
            post_transform="LOGISTIC" if targets == 1 else "SOFTMAX",
            base_values=base,
            **labels,
            **nodes.attributes("class"),
        )
        return
    has_log_link = type(estimator._loss.link).__name__ == "LogLink"
    output = operator.outputs[0].full_name
    raw = scope.get_unique_variable_name("raw") if has_log_link else output
    container.add_node(
        "TreeEnsembleRegressor",
        features,
        raw,
        op_domain="ai.onnx.ml",
        name=scope.get_unique_operator_name("TreeEnsembleRegressor"),
        n_targets=1,
        base_values=base,
        **nodes.attributes("target"),
    )
    if has_log_link:
        container.add_node("Exp", raw, output, name=scope.get_unique_operator_name("Exp"))


def _trees(estimator: Any, sets: Sets) -> _Nodes:
    nodes = _Nodes()
    is_category = estimator.is_categorical_
    categories = 0 if is_category is None else int(np.sum(is_category))
    for iteration, predictors in enumerate(estimator._predictors):
        for target, predictor in enumerate(predictors):
            tree = iteration * len(predictors) + target
            for number, node in enumerate(predictor.nodes):
                if node["is_leaf"]:
                    nodes.leaf(tree, number, target, float(np.float32(node["value"])))
                    continue
                ends = int(node["left"]), int(node["right"])
                if node["is_categorical"]:
                    nodes.split(tree, number, sets.columns[iteration, target, number], 0.5, *ends)
                else:
                    column = sets.width + int(node["feature_idx"]) - categories
                    threshold = float(rounded_down(node["num_threshold"]))
                    nodes.split(tree, number, column, threshold, *ends, bool(node["missing_go_to_left"]))
    return nodes
