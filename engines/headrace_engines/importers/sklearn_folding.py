"""Scalers before trees, folded into the trees' thresholds.

Trees take values of their training data for thresholds. Behind a scaler these are values that were scaled
in FP64; scaled in FP32, many come out one step lower or higher, and go the other way. Scaling keeps the
order of a column, so each threshold has one place among the numbers that were not scaled, which is looked
for with the scaler itself: no rounding is left, and no scaling either.

Scalers are found where they are the last steps before the trees, be it of the pipeline or of a transformer
of columns. Histogram-based boosting compares in FP64, so its thresholds are replaced before it is exported,
and what an imputer fills in is rounded as they are; others' are replaced in the graph.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from headrace_engines.importers.sklearn_histogram import rounded_down

SCALERS: Final = (MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler)
_HISTOGRAMS: Final = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
_TREES: Final = (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    *_HISTOGRAMS,
)
_ENSEMBLES: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_STRICT, _CLOSED = b"BRANCH_LT", b"BRANCH_LEQ"
_LARGEST: Final = int(np.finfo(np.float32).max.view(np.int32))
_AT_ONCE: Final = 4096

Steps = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Scaling:
    """Scalers, one behind the other, of as many columns as they take, which begin at `start`."""

    start: int
    scalers: Steps


def folded(estimator: Any, export: Callable[[Any], onnx.ModelProto]) -> onnx.ModelProto | None:
    """Export a pipeline without its scalers; None where nothing is folded, or more than order counts."""
    if not isinstance(estimator, Pipeline):
        return None
    *steps, last = (step for _, step in estimator.steps if step != "passthrough")
    if not isinstance(last, _TREES) and not type(last).__module__.startswith("xgboost."):
        return None
    before, scalings = _parted(tuple(steps))
    if not scalings and not (before and isinstance(last, _HISTOGRAMS)):
        return None
    if isinstance(last, _HISTOGRAMS):
        if last.is_categorical_ is not None:
            return None
        return export(_joined(tuple(map(_rounding, before)), _unscaled_histogram(last, scalings)))
    model = export(_joined(before, last))
    given = set() if before else {value.name for value in model.graph.input}
    return model if _fold(model, scalings, given) else None


def _parted(steps: Steps) -> tuple[Steps, tuple[_Scaling, ...]]:
    """Return the steps without the scalers at their end, and these."""
    before, scalers = _without_scalers(steps)
    if scalers:
        return before, (_Scaling(0, scalers),)
    if not steps or not isinstance(steps[-1], ColumnTransformer) or steps[-1].transformer_weights:
        return steps, ()
    columns, scalings = _without_scalers_inside(steps[-1])
    return (*steps[:-1], columns), scalings


def _without_scalers(steps: Steps) -> tuple[Steps, Steps]:
    count = len(steps)
    while count and isinstance(steps[count - 1], SCALERS):
        count -= 1
    return steps[:count], steps[count:]


def _without_scalers_inside(transformer: ColumnTransformer) -> tuple[Any, tuple[_Scaling, ...]]:
    """Return a transformer of columns without the scalers that its parts end with, and these."""
    parts: list[tuple[str, Any, Any]] = []
    scalings: list[_Scaling] = []
    for name, part, columns in transformer.transformers_:
        steps = tuple(step for _, step in part.steps) if isinstance(part, Pipeline) else (part,)
        before, scalers = _without_scalers(tuple(step for step in steps if step != "passthrough"))
        if scalers:
            scalings.append(_Scaling(transformer.output_indices_[name].start, scalers))
        rest_of_part = (_joined(before) if before else "passthrough") if scalers else part
        parts.append((name, rest_of_part, columns))
    rest = copy.copy(transformer)
    rest.transformers_ = parts
    return rest, tuple(scalings)


def _joined(steps: Steps, *last: Any) -> Any:
    steps = (*steps, *last)
    return steps[0] if len(steps) == 1 else Pipeline([(f"step{at}", step) for at, step in enumerate(steps)])


def _rounding(step: Any) -> Any:
    """Return a step whose imputers fill in FP32 numbers that lie on the same side of each threshold."""
    match step:
        case SimpleImputer() if step.statistics_.dtype.kind == "f":
            rounded = copy.copy(step)
            rounded.statistics_ = rounded_down(step.statistics_).astype(np.float64)
            return rounded
        case Pipeline():
            return _joined(tuple(_rounding(each) for _, each in step.steps))
        case ColumnTransformer():
            rounded = copy.copy(step)
            rounded.transformers_ = [(name, _rounding(part), at) for name, part, at in step.transformers_]
            return rounded
    return step


def _unscaled_histogram(estimator: Any, scalings: Sequence[_Scaling]) -> Any:
    """Return a copy that asks the numbers that are not scaled what it asked the scaled ones."""
    unscaled = copy.copy(estimator)
    unscaled._predictors = copy.deepcopy(estimator._predictors)
    every = [each.nodes for some in unscaled._predictors for each in some]
    nodes = np.concatenate(every)
    is_asked = (nodes["is_leaf"] == 0) & np.isfinite(nodes["num_threshold"])
    thresholds = nodes["num_threshold"].copy()
    thresholds[is_asked] = _unscaled(
        scalings, nodes["feature_idx"][is_asked], thresholds[is_asked], np.zeros(is_asked.sum(), bool)
    )
    ends = np.cumsum([len(each) for each in every])
    for own, values in zip(every, np.split(thresholds, ends[:-1]), strict=True):
        own["num_threshold"] = values
    return unscaled


def _fold(model: onnx.ModelProto, scalings: Sequence[_Scaling], given: set[str]) -> bool:
    """Have the trees of a graph take what the scalers took; False if it asks for more than order.

    `given` are tensors that the trees alone may read, besides those that they do read.
    """
    nodes = [node for node in model.graph.node if node.op_type in _ENSEMBLES]
    modes = {mode for node in nodes for mode in helper.get_node_attr_value(node, "nodes_modes")}
    others = {name for node in model.graph.node if node not in nodes for name in node.input}
    read = given | {name for node in nodes for name in node.input}
    if not nodes or modes - {_STRICT, _CLOSED, b"LEAF"} or not others.isdisjoint(read):
        return False
    for node in nodes:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        kinds = np.array(attributes["nodes_modes"].strings)
        decides = kinds != b"LEAF"
        thresholds = np.array(attributes["nodes_values"].floats, np.float32)
        features = np.array(attributes["nodes_featureids"].ints)
        thresholds[decides] = _unscaled(
            scalings, features[decides], thresholds[decides], kinds[decides] == _STRICT
        )
        attributes["nodes_values"].floats[:] = thresholds.tolist()
    return True


def _unscaled(
    scalings: Sequence[_Scaling],
    features: NDArray[Any],
    thresholds: NDArray[Any],
    is_strict: NDArray[np.bool_],
) -> NDArray[Any]:
    """Return the thresholds that divide FP32 numbers as these divide what the scalers make of them.

    What was scaled is compared in the type of the thresholds.
    """
    result = thresholds.copy()
    for scaling in scalings:
        end = scaling.start + scaling.scalers[0].n_features_in_
        chosen = np.flatnonzero((features >= scaling.start) & (features < end))
        if not chosen.size:
            continue
        own = features[chosen].astype(np.int64) - scaling.start
        keys = np.stack([own, thresholds[chosen], is_strict[chosen]], axis=1).astype(np.float64)
        wanted, where = np.unique(keys, axis=0, return_inverse=True)
        found = np.empty(len(wanted), np.float32)
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            found[start : start + _AT_ONCE] = searched(
                scaling.scalers,
                part[:, 0].astype(np.int64),
                part[:, 1].astype(thresholds.dtype),
                part[:, 2].astype(bool),
            )
        result[chosen] = found[where.reshape(-1)]
    return result


def searched(
    scalers: Steps,
    features: NDArray[np.int64],
    thresholds: NDArray[Any],
    is_strict: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return the FP32 numbers that divide others as these thresholds divide what the scalers make of them.

    The numbers are halved, counted from the least to the greatest, until each threshold has its own.
    """
    count = scalers[0].n_features_in_
    rows = np.arange(len(features))
    low = np.full(len(features), -_LARGEST - 1)  # the last number that is known to be below
    high = np.full(len(features), _LARGEST)
    while (low < high).any():
        # None is below some: their places meet before the least, which is no number to be scaled.
        middle = np.maximum((low + high + 1) // 2, -_LARGEST)
        values = np.repeat(_number(middle)[:, None], count, axis=1).astype(np.float64)
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")  # of a matrix for a table with the same columns
            for scaler in scalers:
                values = np.asarray(scaler.transform(values))
            scaled = values[rows, features].astype(thresholds.dtype)
        holds = np.where(is_strict, scaled < thresholds, scaled <= thresholds)
        low = np.where(holds, middle, low)
        high = np.where(holds, high, middle - 1)
    return np.where(is_strict, _number(low + 1), _number(low)).astype(np.float32)


def _number(place: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the FP32 number at a place: 0 is zero, 1 the smallest above it, and so on."""
    magnitude = np.abs(place).astype(np.int32).view(np.float32)
    return np.where(place < 0, -magnitude, magnitude)
