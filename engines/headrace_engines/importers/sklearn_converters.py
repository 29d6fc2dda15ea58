"""What the exporter of scikit-learn leaves out, put in: its converters are replaced by ones that keep it.

Decision trees and forests get scikit-learn's own thresholds, rounded so that FP32 numbers are divided as
before, and the ways that missing values go. Histogram-based boosting is written anew. Discriminant analysis
between two classes is a logistic function of its score, of which the exporter takes twice as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import skl2onnx.operator_converters  # noqa: F401  it registers the converters that are replaced here
from onnx import helper
from skl2onnx.common._registration import _converter_pool, register_converter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.sklearn_histogram import histogram, rounded_down

_EXPORTED: Final = (
    "SklearnDecisionTreeClassifier",
    "SklearnDecisionTreeRegressor",
    "SklearnExtraTreeClassifier",
    "SklearnExtraTreeRegressor",
    "SklearnExtraTreesClassifier",
    "SklearnExtraTreesRegressor",
    "SklearnGradientBoostingClassifier",
    "SklearnGradientBoostingRegressor",
    "SklearnRandomForestClassifier",
    "SklearnRandomForestRegressor",
)
_HISTOGRAM: Final = ("SklearnHistGradientBoostingClassifier", "SklearnHistGradientBoostingRegressor")
_LINEAR: Final = "SklearnLinearClassifier"

Converter = Callable[[Any, Any, Any], None]


def register() -> None:
    """Have the exporter use the converters of this module."""
    replaced = dict.fromkeys(_EXPORTED, _completed) | {_LINEAR: _logistic}
    for name, replacement in replaced.items():
        known = _converter_pool[name]
        if not isinstance(known._fct, partial):  # a partial is what was put there before
            register_converter(name, partial(replacement, known._fct), True, known._options)
    for name in _HISTOGRAM:
        register_converter(name, histogram, True, _converter_pool[name]._options)


def _completed(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Run the exporter's converter and correct the nodes of its trees."""
    before = len(container.nodes)
    exporter(scope, operator, container)
    trees = [each.tree_ for each in _trees(operator.raw_operator)]
    for node in container.nodes[before:]:
        if node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
            _correct(node, trees)


def _trees(estimator: Any) -> Iterable[Any]:
    parts = getattr(estimator, "estimators_", None)
    return [estimator] if parts is None else list(np.ravel(np.asarray(parts, object)))


def _correct(node: Any, trees: Sequence[Any]) -> None:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    features = np.concatenate([np.where(tree.children_left < 0, 0, tree.feature) for tree in trees])
    if not np.array_equal(features, attributes["nodes_featureids"].ints):
        raise UnsupportedModelError(
            f"{node.op_type}: its trees come in another order than they are exported in"
        )
    is_leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    thresholds = np.concatenate([tree.threshold for tree in trees])
    missing = [getattr(tree, "missing_go_to_left", np.zeros(tree.node_count)) for tree in trees]
    corrected = {
        "nodes_values": np.where(is_leaf, 0, rounded_down(thresholds)).astype(np.float32),
        "nodes_missing_value_tracks_true": (np.concatenate(missing).astype(bool) & ~is_leaf).astype(np.int64),
    }
    for name, values in corrected.items():
        if name in attributes:
            node.attribute.remove(attributes[name])
        node.attribute.append(helper.make_attribute(name, values.tolist()))


def _logistic(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Run the exporter's converter of linear classifiers, and correct one of discriminant analysis."""
    before = len(container.nodes)
    exporter(scope, operator, container)
    estimator = operator.raw_operator
    if not isinstance(estimator, LinearDiscriminantAnalysis) or len(estimator.classes_) > 2:
        return
    for node in container.nodes[before:]:
        for attribute in node.attribute:
            if attribute.name == "post_transform":
                attribute.s = b"LOGISTIC"
