"""Estimators written as PMML, and read from it: by Headrace, and by another reader where that is right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classical_models import FEATURES, ROWS, THREE, TWO, VALUES, assert_faithful
from sklearn.base import is_classifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    Ridge,
    RidgeCV,
    SGDRegressor,
)
from sklearn.linear_model import LogisticRegression as Logistic
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PowerTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.pmml import PmmlImporter, open_source
from headrace_engines.importers.pmml_writer import document

_SHALLOW = {"max_depth": 5, "random_state": 0}
_FEW = {**_SHALLOW, "n_estimators": 7}
_TEXT = np.array(["low & <small>", "zwölf", "öß"])[THREE]
ESTIMATORS: Mapping[str, tuple[Any, Any]] = {
    "linear": (LinearRegression(), VALUES),
    "linear without an intercept": (LinearRegression(fit_intercept=False), VALUES),
    "linear of a column": (LinearRegression(), VALUES[:, None]),
    "ridge": (Ridge(), VALUES),
    "ridge with validation": (RidgeCV(), VALUES),
    "lasso": (Lasso(0.1), VALUES),
    "elastic net": (ElasticNet(0.1), VALUES),
    "bayesian ridge": (BayesianRidge(), VALUES),
    "huber": (HuberRegressor(max_iter=500), VALUES),
    "stochastic": (SGDRegressor(random_state=0), VALUES),
    "logistic of two": (Logistic(), TWO),
    "logistic of three": (Logistic(), THREE),
    "logistic of numbers": (Logistic(), THREE * 5 - 3),
    "logistic of texts": (Logistic(), _TEXT),
    "logistic of decisions": (Logistic(), TWO.astype(bool)),
    "logistic of floats": (Logistic(), THREE.astype(float)),
    "scaled": (make_pipeline(StandardScaler(), Logistic()), THREE),
    "scaled twice": (
        make_pipeline(MinMaxScaler(), "passthrough", StandardScaler(with_std=False), Ridge()), VALUES,
    ),
    "tree of classes": (DecisionTreeClassifier(**_SHALLOW), THREE),
    "tree of texts": (DecisionTreeClassifier(**_SHALLOW), _TEXT),
    "tree of numbers": (DecisionTreeRegressor(**_SHALLOW), VALUES),
    "a leaf": (DecisionTreeRegressor(min_samples_leaf=len(ROWS)), VALUES),
    "forest of classes": (RandomForestClassifier(**_FEW), THREE),
    "forest of two": (RandomForestClassifier(**_FEW), TWO),
    "forest of numbers": (RandomForestRegressor(**_FEW), VALUES),
    "extra trees of classes": (ExtraTreesClassifier(**_FEW), THREE),
    "extra trees of numbers": (ExtraTreesRegressor(**_FEW), VALUES),
}  # fmt: skip


def fitted(name: str) -> Any:
    estimator, target = ESTIMATORS[name]
    return estimator.fit(ROWS, target)


def reopened(estimator: Any, folder: Path) -> PmmlImporter:
    path = folder / "model.pmml"
    path.write_bytes(document(estimator))
    return open_source(path, ImportOptions())


def _on_thresholds(estimator: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows at the thresholds of trees, and right beside them."""
    trees = getattr(estimator, "estimators_", [estimator])
    thresholds = np.concatenate([each.tree_.threshold[each.tree_.feature >= 0] for each in trees])
    nearest = thresholds.astype(np.float32)
    beside = [np.nextafter(nearest, np.float32(end)) for end in (-np.inf, np.inf)]
    values = np.concatenate([nearest, *beside, np.float32([0])])
    return np.random.default_rng(0).choice(values, (200, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_written_answers_as_its_source(name: str, tmp_path: Path) -> None:
    estimator = fitted(name)
    importer = reopened(estimator, tmp_path)
    has_trees = hasattr(estimator, "tree_") or hasattr(estimator, "estimators_")
    rows = np.concatenate([ROWS, _on_thresholds(estimator)]) if has_trees else ROWS
    assert_faithful(importer, tmp_path, {"input": rows})
    found = importer.answers({"input": rows})
    if not is_classifier(estimator):
        expected = estimator.predict(rows).reshape(-1, 1)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5 * np.ptp(VALUES))
        return
    np.testing.assert_allclose(found[-1], estimator.predict_proba(rows), rtol=0, atol=1e-6)
    if estimator.classes_.dtype.kind in "if":
        np.testing.assert_array_equal(found[0], estimator.predict(rows))
        assert json.loads(str(importer.facts["classes"])) == estimator.classes_.tolist()


def test_fields_have_the_names_that_they_were_fitted_with(tmp_path: Path) -> None:
    estimator = Ridge().fit(ROWS, VALUES)
    assert reopened(estimator, tmp_path).facts["columns"] == '["x0", "x1", "x2", "x3", "x4"]'
    estimator.feature_names_in_ = np.array(["y", "yy", "größe", "a < b", "e"], object)
    facts = reopened(estimator, tmp_path).facts
    assert json.loads(str(facts["columns"])) == ["y", "yy", "größe", "a < b", "e"]
    assert facts["target"] == "yyy"


def test_the_same_estimator_is_the_same_document() -> None:
    assert document(fitted("forest of classes")) == document(fitted("forest of classes"))


def test_a_tree_that_is_too_deep_is_told() -> None:
    steps = np.arange(1800.0)
    estimator = DecisionTreeRegressor(random_state=0).fit(steps[:, None], steps % 2)
    assert estimator.get_depth() > 1000
    with pytest.raises(UnsupportedModelError, match="limit max_depth"):
        document(estimator)


def test_missing_values_have_a_way(tmp_path: Path) -> None:
    holes = np.where(np.arange(ROWS.size).reshape(ROWS.shape) % 7 == 0, np.nan, ROWS)
    estimator = DecisionTreeRegressor(max_depth=1).fit(holes, VALUES)
    text = document(estimator).decode()
    left = bool(estimator.tree_.missing_go_to_left[0])
    assert 'missingValueStrategy="defaultChild"' in text
    assert f'defaultChild="{1 if left else 2}"' in text
    rows = {"input": ROWS}
    expected = estimator.predict(ROWS)
    np.testing.assert_allclose(reopened(estimator, tmp_path).answers(rows)[0][:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (
            GradientBoostingRegressor(n_estimators=2).fit(ROWS, VALUES),
            "GradientBoostingRegressor has no form",
        ),
        (
            make_pipeline(PowerTransformer(), Ridge()).fit(ROWS, VALUES),
            "PowerTransformer before Ridge has no form",
        ),
        (
            make_pipeline(StandardScaler(), DecisionTreeRegressor(max_depth=2)).fit(ROWS, VALUES),
            "StandardScaler before DecisionTreeRegressor has no form",
        ),
        (make_pipeline(MinMaxScaler(clip=True), Ridge()).fit(ROWS, VALUES), "MinMaxScaler before Ridge"),
        (LinearRegression().fit(ROWS, ROWS[:, :2]), "with one target"),
        (DecisionTreeClassifier(max_depth=2).fit(ROWS, np.stack([TWO, THREE], 1)), "with one target"),
        (Logistic().fit(ROWS, np.array(["a\x01", "b"])[TWO]), "characters that XML does not have"),
        (StandardScaler().fit(ROWS), "StandardScaler has no form"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_has_no_form_is_named(estimator: Any, told: str) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        document(estimator)
    assert told in str(refused.value)


@pytest.mark.frameworks
@pytest.mark.parametrize(
    "name",
    [
        "linear",
        "ridge",
        "lasso",
        "logistic of three",
        "tree of classes",
        "tree of numbers",
        "forest of numbers",
    ],
)
def test_another_reader_answers_the_same(name: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs the extra `data`")
    detection = pytest.importorskip(
        "sklearn_pmml_model.auto_detect", reason="needs the distribution sklearn-pmml-model"
    )
    estimator = fitted(name)
    reopened(estimator, tmp_path)
    reader = detection.auto_detect_estimator(str(tmp_path / "model.pmml"))
    table = pandas.DataFrame(ROWS, columns=[f"x{place}" for place in range(FEATURES)])
    ask = "predict_proba" if is_classifier(estimator) else "predict"
    expected = getattr(estimator, ask)(ROWS)
    np.testing.assert_allclose(getattr(reader, ask)(table), expected, rtol=1e-6, atol=1e-6)
