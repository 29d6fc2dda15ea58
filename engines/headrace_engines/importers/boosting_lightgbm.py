"""Trees of LightGBM, rewritten such that the exporter writes what they answer."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import lightgbm
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.boosting_categories import make_whole
from headrace_engines.importers.boosting_xgboost import EXPORTER_OPSET
from headrace_engines.importers.sklearn_histogram import rounded_down

_CLASSES: Final = ("binary", "multiclass")
_LINKED: Final = ("poisson", "gamma", "tweedie")
_VALUES: Final = ("regression", "regression_l1", "huber", "quantile", "lambdarank", "rank_xendcg")
_NUMBERED: Final = re.compile(r"Column_[0-9]+")
"""What LightGBM calls features that nobody named."""
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_SHIFT: Final = 2
_MISSING_NONE, _MISSING_ZERO = 0, 1
_ZERO: Final = float(np.float32(1e-35))
"""LightGBM takes all that is no further from zero for zero."""
_BELOW_ZERO: Final = float(np.nextafter(np.float32(-_ZERO), np.float32(-1)))


def from_file(path: Path) -> LightgbmBooster:
    """Return the trees of a file that `save_model` wrote."""
    return LightgbmBooster(lightgbm.Booster(model_file=path), "Booster", None)


def from_object(content: Any) -> LightgbmBooster:
    """Return the trees of a booster or an estimator."""
    if isinstance(content, lightgbm.Booster):
        return LightgbmBooster(content, "Booster", None)
    classes = np.asarray(content.classes_) if isinstance(content, lightgbm.LGBMClassifier) else None
    return LightgbmBooster(content.booster_, type(content).__name__, classes)


class LightgbmBooster:
    """Trees of LightGBM whose objective the exporter knows; up to the best iteration where there is one."""

    def __init__(self, booster: lightgbm.Booster, name: str, classes: NDArray[Any] | None) -> None:
        """Raises UnsupportedModelError naming what the exporter would write wrongly, or not at all."""
        self._booster = booster
        self._exportable = exportable(booster)
        objective = _objective(booster.model_to_string(num_iteration=1))
        self.name = f"{name} with objective {' '.join(objective)}"
        self.framework = f"LightGBM {lightgbm.__version__}"
        self.features = int(booster.num_feature())
        names = booster.feature_name()
        self.columns = () if all(map(_NUMBERED.fullmatch, names)) else tuple(names)
        self.trees = int(self._exportable.num_trees())
        count = max(self._exportable.num_model_per_iteration(), 2)
        is_classifier = objective[0] in _CLASSES
        self.classes = (np.arange(count) if classes is None else classes) if is_classifier else None

    def export(self) -> onnx.ModelProto:
        """Return the exporter's model of these trees."""
        model: onnx.ModelProto = convert_lightgbm(
            self._exportable,
            initial_types=[("input", FloatTensorType([None, self.features]))],
            target_opset=EXPORTER_OPSET,
            zipmap=False,
        )
        make_whole(model.graph.node, model.graph.initializer, self.features, towards_zero=True)
        return model

    def answer(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Return probabilities or predictions."""
        answer = np.asarray(self._booster.predict(rows))
        if self.classes is not None and answer.ndim == 1:
            return np.stack([1 - answer, answer], axis=1)
        return answer.reshape(len(rows), -1)


def exportable(booster: lightgbm.Booster) -> lightgbm.Booster:
    """Return a booster that answers FP32 rows as this one does, in terms that the exporter gets right.

    Thresholds are FP32, rounded such that they divide FP32 numbers as before; averages and slopes are in
    the leaves; where no value was missing in training, NaN goes where zero goes.
    """
    text = booster.model_to_string()
    header, *trees = re.split(r"(?m)^(?=Tree=\d+$)", text)
    objective = _objective(header)
    factor = float(dict(part.split(":") for part in objective[1:] if ":" in part).get("sigmoid", 1))
    if "\naverage_output\n" in header:
        factor /= len(trees) // booster.num_model_per_iteration()
    header = re.sub(r"(?m)^(tree_sizes=.*|average_output)\n", "", header)
    return lightgbm.Booster(model_str=header + "".join(_tree(tree, factor) for tree in trees))


def _objective(header: str) -> list[str]:
    """Return the objective and its parameters."""
    found = re.search(r"(?m)^objective=(.+)$", header)
    words = found[1].split() if found else ["of one's own"]
    if words[0] not in (*_CLASSES, *_LINKED, *_VALUES) or "sqrt" in words:
        raise UnsupportedModelError(
            f"LightGBM's objective {' '.join(words)} cannot be converted to ONNX; these can: "
            f"{', '.join((*_CLASSES, *_VALUES, *_LINKED))}"
        )
    return words


def _tree(text: str, factor: float) -> str:
    """Return one tree as text, for the exporter."""
    if _field(text, "is_linear") == ["1"]:
        raise UnsupportedModelError("LightGBM's linear trees cannot be converted to ONNX; others can")
    kinds = np.array(_field(text, "decision_type"), np.int64)
    thresholds = np.array(_field(text, "threshold"), np.float64)
    is_number = (kinds & _CATEGORICAL) == 0
    missing = kinds >> _MISSING_SHIFT & 3
    if (is_number & (missing == _MISSING_ZERO)).any():
        raise UnsupportedModelError(
            "LightGBM with zero_as_missing cannot be converted to ONNX: train it with NaN for what is missing"
        )
    bounds = np.where(np.abs(thresholds) <= _ZERO, np.where(thresholds < 0, _BELOW_ZERO, _ZERO), thresholds)
    rounded = np.where(is_number, rounded_down(bounds).astype(np.float64), thresholds)
    kinds = np.where(is_number & (missing == _MISSING_NONE), kinds | _DEFAULT_LEFT, kinds)
    leaves = np.array(_field(text, "leaf_value"), np.float64) * factor
    for name, values in (("threshold", rounded), ("decision_type", kinds), ("leaf_value", leaves)):
        told = " ".join(repr(each) for each in values.tolist())
        text = re.sub(rf"(?m)^{name}=.*$", f"{name}={told}", text)
    return text


def _field(text: str, name: str) -> list[str]:
    found = re.search(rf"(?m)^{name}=(.*)$", text)
    return found[1].split() if found else []


def register() -> None:
    """Have scikit-learn's exporter know LightGBM's estimators."""
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm as converter
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    def convert(scope: Any, operator: Any, container: Any) -> None:
        estimator = operator.raw_operator
        before = len(container.nodes)
        operator.raw_operator = SimpleNamespace(
            booster_=exportable(estimator.booster_),
            boosting_type="gbdt",
            classes_=getattr(estimator, "classes_", None),
        )
        try:
            converter(scope, operator, container)
        finally:
            operator.raw_operator = estimator
        make_whole(
            container.nodes,
            container.initializers,
            estimator.n_features_in_,
            towards_zero=True,
            start=before,
        )

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"], "raw_scores": [True, False]}
    classifier = calculate_linear_classifier_output_shapes, convert
    regressor = calculate_linear_regressor_output_shapes, convert
    update_registered_converter(lightgbm.LGBMClassifier, "LgbmClassifier", *classifier, options=options)
    update_registered_converter(lightgbm.LGBMRegressor, "LgbmRegressor", *regressor)
