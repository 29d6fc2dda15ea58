"""Scalers before trees, folded into the trees' thresholds.

Boosting takes values of its training data for thresholds. Behind a scaler these are values that were scaled
in FP64; scaled in FP32, many come out one step lower or higher, and go the other way. Scaling keeps the
order of a column, so each threshold has one place among the numbers that were not scaled, which is looked
for with the scaler itself: no rounding is left, and no scaling either.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

_SCALERS: Final = (MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler)
_TREES: Final = (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
_ENSEMBLES: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_STRICT, _CLOSED = b"BRANCH_LT", b"BRANCH_LEQ"
_LARGEST: Final = int(np.finfo(np.float32).max.view(np.int32))
_AT_ONCE: Final = 4096


def parted(estimator: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the scalers that can be folded into what comes behind them, and that; else no scalers."""
    if not isinstance(estimator, Pipeline):
        return (), estimator
    *scalers, last = (step for _, step in estimator.steps if step != "passthrough")
    takes_fp32 = isinstance(last, _TREES) or type(last).__module__.startswith("xgboost.")
    if takes_fp32 and all(isinstance(step, _SCALERS) for step in scalers):
        return tuple(scalers), last
    return (), estimator


def fold(model: onnx.ModelProto, scalers: Sequence[Any]) -> bool:
    """Have the trees of a graph take what the scalers took; False if one asks for more than order."""
    nodes = [node for node in model.graph.node if node.op_type in _ENSEMBLES]
    given = {value.name for value in model.graph.input}
    modes = {mode for node in nodes for mode in helper.get_node_attr_value(node, "nodes_modes")}
    others = {name for node in model.graph.node if node not in nodes for name in node.input}
    if not nodes or modes - {_STRICT, _CLOSED, b"LEAF"} or not others.isdisjoint(given):
        return False
    for node in nodes:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        kinds = np.array(attributes["nodes_modes"].strings)
        decides = kinds != b"LEAF"
        thresholds = np.array(attributes["nodes_values"].floats, np.float32)
        features = np.array(attributes["nodes_featureids"].ints)
        thresholds[decides] = _unscaled(
            scalers, features[decides], thresholds[decides], kinds[decides] == _STRICT
        )
        attributes["nodes_values"].floats[:] = thresholds.tolist()
    return True


def _unscaled(
    scalers: Sequence[Any],
    features: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    is_strict: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return the thresholds that divide numbers as these divide what the scalers make of them."""
    keys = np.stack([features, thresholds.view(np.int32), is_strict], axis=1)
    wanted, where = np.unique(keys, axis=0, return_inverse=True)
    found = np.empty(len(wanted), np.float32)
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        bounds = part[:, 1].astype(np.int32).view(np.float32)
        found[start : start + _AT_ONCE] = _searched(scalers, part[:, 0], bounds, part[:, 2].astype(bool))
    return found[where.reshape(-1)]


def _searched(
    scalers: Sequence[Any],
    features: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    is_strict: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Halve the FP32 numbers, counted from the least to the greatest, until each threshold has its own."""
    count = scalers[0].n_features_in_
    rows = np.arange(len(features))
    low = np.full(len(features), -_LARGEST - 1)  # the last number that is known to be below
    high = np.full(len(features), _LARGEST)
    while (low < high).any():
        middle = (low + high + 1) // 2
        values = np.repeat(_number(middle)[:, None], count, axis=1).astype(np.float64)
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")  # of a matrix for a table with the same columns
            for scaler in scalers:
                values = scaler.transform(values)
            scaled = values[rows, features].astype(np.float32)
        holds = np.where(is_strict, scaled < thresholds, scaled <= thresholds)
        low = np.where(holds, middle, low)
        high = np.where(holds, high, middle - 1)
    return np.where(is_strict, _number(low + 1), _number(low)).astype(np.float32)


def _number(place: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the FP32 number at a place: 0 is zero, 1 the smallest above it, and so on."""
    magnitude = np.abs(place).astype(np.int32).view(np.float32)
    return np.where(place < 0, -magnitude, magnitude)
