"""What the exporter of scikit-learn leaves out, put in: its converters are replaced by ones that keep it.

Decision trees and forests get scikit-learn's own thresholds, rounded so that FP32 numbers are divided as
before, and the ways that missing values go. Histogram-based boosting is written anew. Discriminant analysis
between two classes is a logistic function of its score, of which the exporter takes twice as much. Scalers
subtract what FP32 leaves of a mean, too: of large numbers that differ little, as dates are, it is much.
A perceptron that predicts several values has a column for each. What is made of columns before a model is in
`sklearn_columns`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import skl2onnx.operator_converters  # noqa: F401  it registers the converters that are replaced here
from onnx import helper
from skl2onnx.common._registration import _converter_pool, register_converter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers import sklearn_columns
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
_TWO: Final = 2
_SCALERS: Final = ("SklearnScaler", "SklearnRobustScaler", "SklearnMinMaxScaler")

Converter = Callable[[Any, Any, Any], None]


def register() -> None:
    """Have the exporter use the converters of this module."""
    replaced = dict.fromkeys(_EXPORTED, _completed) | dict.fromkeys(_SCALERS, _scaled) | _SINGLE
    for name, replacement in replaced.items():
        known = _converter_pool[name]
        if not isinstance(known._fct, partial):  # a partial is what was put there before
            register_converter(name, partial(replacement, known._fct), True, known._options)
    for name in _HISTOGRAM:
        register_converter(name, histogram, True, _converter_pool[name]._options)
    sklearn_columns.register_shapes()


def _completed(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Run the exporter's converter and correct the nodes of its trees."""
    before = len(container.nodes)
    exporter(scope, operator, container)
    trees = [each.tree_ for each in _trees(operator.raw_operator)]
    for node in container.nodes[before:]:
        if node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
            _correct(node, trees)
            if (
                getattr(operator.raw_operator, "init", None) == "zero"
            ):  # written as one value, whatever is scored
                _drop(node, "base_values")


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


def _drop(node: Any, name: str) -> None:
    for attribute in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(attribute)


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


def _voted(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Run the exporter's converter of votes, which refuses for what `transform` alone would give."""
    estimator = operator.raw_operator
    operator.raw_operator = plain = copy.copy(estimator)
    plain.flatten_transform = False
    if estimator.weights is not None:
        plain.weights = np.asarray(estimator._weights_not_none)
    try:
        exporter(scope, operator, container)
    finally:
        operator.raw_operator = estimator


def _descended(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Run the exporter's converter of SGDClassifier, and take the label of several classes from their scores.

    Probabilities of classes whose scores differ may be the same: one, most of all.
    """
    before = len(container.nodes)
    exporter(scope, operator, container)
    if len(operator.raw_operator.classes_) > _TWO:
        made = container.nodes[before:]
        (score, *_) = (node.output[0] for node in made if node.op_type == "Add")
        (best,) = (node for node in made if node.op_type == "ArgMax")
        best.input[0] = score


def _in_columns(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Run the exporter's converter of perceptrons, and leave out that it puts all values into one column."""
    before = len(container.nodes)
    exporter(scope, operator, container)
    for node in container.nodes[before:]:
        if node.op_type == "Reshape" and node.output[0] == operator.outputs[0].full_name:
            node.op_type = "Identity"
            del node.input[1:]


def _scaled(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Write (x - offset) * scale, the offset in two parts; whatever else a scaler does is the exporter's."""
    estimator = operator.raw_operator
    offset: Any = 0.0
    scale: Any = 1.0
    match estimator:
        case StandardScaler():
            offset = estimator.mean_ if estimator.with_mean else offset
            scale = 1 / estimator.scale_ if estimator.with_std else scale
        case RobustScaler():
            offset = estimator.center_ if estimator.with_centering else offset
            scale = 1 / estimator.scale_ if estimator.with_scaling else scale
        case MinMaxScaler() if not estimator.clip and estimator.feature_range[0] == 0:
            offset, scale = estimator.data_min_, estimator.scale_
        case _:
            exporter(scope, operator, container)
            return
    if len(operator.inputs) > 1:
        exporter(scope, operator, container)
        return
    offset, scale = (np.broadcast_to(each, (estimator.n_features_in_,)) for each in (offset, scale))
    rounded = offset.astype(np.float32)
    rest = offset - rounded
    value = operator.inputs[0].full_name
    parts = [(rounded, np.ones_like(rounded)), (rest, scale)] if rest.any() else [(rounded, scale)]
    for part, factor in parts:
        is_last = factor is scale
        output = operator.outputs[0].full_name if is_last else scope.get_unique_variable_name("centred")
        container.add_node(
            "Scaler",
            value,
            output,
            op_domain="ai.onnx.ml",
            name=scope.get_unique_operator_name("Scaler"),
            offset=part.astype(np.float32).tolist(),
            scale=factor.astype(np.float32).tolist(),
        )
        value = output


_SINGLE: Final = {
    "SklearnBinarizer": sklearn_columns.binarized,
    "SklearnImputer": sklearn_columns.imputed,
    "SklearnKBinsDiscretizer": sklearn_columns.binned,
    "SklearnLinearClassifier": _logistic,
    "SklearnMLPRegressor": _in_columns,
    "SklearnNormalizer": sklearn_columns.normalized,
    "SklearnOneHotEncoder": sklearn_columns.one_hot,
    "SklearnSGDClassifier": _descended,
    "SklearnSimpleImputer": sklearn_columns.imputed,
    "SklearnVotingClassifier": _voted,
}
