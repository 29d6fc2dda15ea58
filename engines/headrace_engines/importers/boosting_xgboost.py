"""Trees of XGBoost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import xgboost
from numpy.typing import NDArray
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.boosting_categories import make_whole

EXPORTER_OPSET: Final = 15
"""The newest that the exporter writes; what it writes means the same in those that came after."""

_CLASSES: Final = ("binary:logistic", "multi:softprob", "multi:softmax")
_VALUES: Final = (
    "count:poisson",
    "rank:map",
    "rank:ndcg",
    "rank:pairwise",
    "reg:absoluteerror",
    "reg:gamma",
    "reg:pseudohubererror",
    "reg:quantileerror",
    "reg:squarederror",
    "reg:squaredlogerror",
    "reg:tweedie",
)


def from_file(path: Path) -> XgboostBooster:
    """Return the trees of a file that `save_model` wrote."""
    booster = xgboost.Booster()
    booster.load_model(path)
    return XgboostBooster(booster, "Booster")


def from_object(content: Any) -> XgboostBooster:
    """Return the trees of a booster or an estimator; those up to its best iteration if it stopped early."""
    if isinstance(content, xgboost.Booster):
        return XgboostBooster(content, "Booster")
    name = type(content).__name__
    _check_missing(content)
    booster = content.get_booster()
    best = booster.attr("best_iteration")
    return XgboostBooster(booster if best is None else booster[: int(best) + 1], name)


def _check_missing(estimator: Any) -> None:
    missing = getattr(estimator, "missing", math.nan)
    if not math.isnan(missing):
        raise UnsupportedModelError(
            f"{type(estimator).__name__} takes {missing} for missing: train it with NaN for that"
        )


def _check_kind(learner: Mapping[str, Any]) -> None:
    kind = learner["gradient_booster"]["name"]
    if kind != "gbtree":
        raise UnsupportedModelError(f"XGBoost's {kind} cannot be converted to ONNX; gbtree can")


class XgboostBooster:
    """Trees of XGBoost whose objective the exporter knows."""

    def __init__(self, booster: xgboost.Booster, name: str) -> None:
        """Raises UnsupportedModelError naming what the exporter would write wrongly, or not at all."""
        learner = json.loads(booster.save_config())["learner"]
        objective = learner["objective"]["name"]
        _check_kind(learner)
        if objective not in (*_CLASSES, *_VALUES):
            raise UnsupportedModelError(
                f"XGBoost's objective {objective} cannot be converted to ONNX; these can: "
                f"{', '.join((*_CLASSES, *_VALUES))}"
            )
        if int(learner["learner_model_param"].get("num_target", 1)) > 1:
            raise UnsupportedModelError(
                "XGBoost with several targets cannot be converted to ONNX: train one for each"
            )
        if objective == "multi:softmax":  # the same trees, asked for probabilities
            booster = booster.copy()
            booster.set_param({"objective": "multi:softprob"})
        self._booster = booster
        self.name = f"{name} with objective {objective}"
        self.framework = f"XGBoost {xgboost.__version__}"
        self.features = int(booster.num_features())
        self.columns = tuple(booster.feature_names or ())
        self.trees = len(booster.get_dump())
        count = max(int(learner["learner_model_param"]["num_class"]), 2)
        self.classes = np.arange(count) if objective in _CLASSES else None

    def export(self) -> onnx.ModelProto:
        """Return the exporter's model of an estimator with these trees."""
        plain = self._booster.copy()
        plain.feature_names = None  # the exporter knows features by their numbers
        plain.set_attr(
            scikit_learn=None
        )  # of which kind the estimator was: a ranker predicts as regressors do
        estimator = xgboost.XGBRegressor() if self.classes is None else xgboost.XGBClassifier()
        estimator.load_model(plain.save_raw("ubj"))
        model: onnx.ModelProto = convert_xgboost(
            estimator,
            initial_types=[("input", FloatTensorType([None, self.features]))],
            target_opset=EXPORTER_OPSET,
        )
        make_whole(model.graph.node, model.graph.initializer, self.features, towards_zero=False)
        return model

    def answer(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Return probabilities or predictions."""
        types = self._booster.feature_types
        matrix = xgboost.DMatrix(
            rows,
            feature_names=self._booster.feature_names,
            feature_types=types,
            enable_categorical=types is not None and "c" in types,
        )
        answer = np.asarray(self._booster.predict(matrix))
        if self.classes is not None and answer.ndim == 1:
            return np.stack([1 - answer, answer], axis=1)
        return answer.reshape(len(rows), -1)


def register() -> None:
    """Have scikit-learn's exporter know XGBoost's estimators."""
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as converter
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    def convert(scope: Any, operator: Any, container: Any) -> None:
        estimator = operator.raw_operator
        _check_missing(estimator)
        _check_kind(json.loads(estimator.get_booster().save_config())["learner"])
        before = len(container.nodes)
        converter(scope, operator, container)
        features = estimator.n_features_in_
        make_whole(container.nodes, container.initializers, features, towards_zero=False, start=before)

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    for estimator, shapes, known in (
        (xgboost.XGBClassifier, calculate_linear_classifier_output_shapes, options),
        (xgboost.XGBRFClassifier, calculate_linear_classifier_output_shapes, options),
        (xgboost.XGBRegressor, calculate_linear_regressor_output_shapes, None),
        (xgboost.XGBRFRegressor, calculate_linear_regressor_output_shapes, None),
    ):
        update_registered_converter(estimator, f"XGBoost{estimator.__name__}", shapes, convert, options=known)
