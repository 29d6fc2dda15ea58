from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classical_models import ROWS, THREE, TWO, VALUES, assert_faithful
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_models import operators
from numpy.typing import NDArray
from sklearn.decomposition import PCA
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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.sklearn import SklearnImporter
from headrace_engines.importers.sklearn_histogram import rounded_down

_RANDOM = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of OpenMP wait for one another in a loop, which takes long where cores are shared."""
    with threadpool_limits(1):
        yield


def _importer(estimator: Any) -> SklearnImporter:
    return SklearnImporter(estimator, ImportOptions(), "")


def _thresholds(estimator: Any) -> NDArray[np.float64]:
    """Every number that a tree of the estimator compares with."""
    if hasattr(estimator, "_predictors"):
        nodes = np.concatenate([each.nodes for some in estimator._predictors for each in some])
        found = nodes["num_threshold"][(nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0)]
    else:
        trees = np.ravel(getattr(estimator, "estimators_", [estimator]))
        found = np.concatenate([each.tree_.threshold[each.tree_.children_left >= 0] for each in trees])
    return found[np.isfinite(found)]


def _on_thresholds(estimator: Any, rows: int = 150) -> NDArray[np.float32]:
    """Rows of the thresholds as FP32 and of the FP32 numbers on both sides of each."""
    nearest = _thresholds(estimator).astype(np.float32)
    beside = [np.nextafter(nearest, np.float32(end)) for end in (-np.inf, np.inf)]
    values = np.concatenate([nearest, *beside])
    values = values[(np.abs(values) >= np.finfo(np.float32).tiny) | (values == 0)]  # as devices see them
    return _RANDOM.choice(values, size=(rows, ROWS.shape[1])).astype(np.float32)


_REGRESSORS = [
    DecisionTreeRegressor(random_state=0),
    RandomForestRegressor(8, random_state=0),
    ExtraTreesRegressor(8, random_state=0),
    GradientBoostingRegressor(n_estimators=15, random_state=0),
    HistGradientBoostingRegressor(max_iter=15, min_samples_leaf=5),
    HistGradientBoostingRegressor(max_iter=10, loss="poisson"),
]
_CLASSIFIERS = [
    DecisionTreeClassifier(random_state=0),
    RandomForestClassifier(8, random_state=0),
    ExtraTreesClassifier(8, random_state=0),
    GradientBoostingClassifier(n_estimators=15, random_state=0),
    GradientBoostingClassifier(n_estimators=5, loss="exponential", random_state=0),
    HistGradientBoostingClassifier(max_iter=15, min_samples_leaf=5),
]


@pytest.mark.parametrize("estimator", _REGRESSORS, ids=str)
def test_trees_predict_as_before_on_their_thresholds(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(ROWS.astype(np.float64) + 1e-9, np.abs(VALUES))
    found = assert_faithful(_importer(estimator), tmp_path, {"input": _on_thresholds(estimator)})
    assert set(found) == {"cpu", "standard"}
    assert_faithful(_importer(estimator), tmp_path, {"input": ROWS})


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("estimator", _CLASSIFIERS, ids=str)
def test_trees_classify_as_before_on_their_thresholds(estimator: Any, labels: Any, tmp_path: Path) -> None:
    if getattr(estimator, "loss", "") == "exponential" and labels is THREE:
        pytest.skip("this loss is for two classes")
    estimator.fit(ROWS.astype(np.float64) + 1e-9, labels)
    assert_faithful(_importer(estimator), tmp_path, {"input": _on_thresholds(estimator)})
    assert_faithful(_importer(estimator), tmp_path, {"input": ROWS})


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), digits=st.integers(1, 9))
def test_trees_of_numbers_in_fp64_decide_as_before(tmp_path: Path, seed: int, digits: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(60, ROWS.shape[1])).round(digits)
    estimator = RandomForestRegressor(3, random_state=0).fit(rows, rows[:, 0] ** 2 + rows[:, 1])
    assert_faithful(_importer(estimator), tmp_path, {"input": _on_thresholds(estimator, 60)})


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(random_state=0),
        RandomForestClassifier(8, random_state=0),
        HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5),
        HistGradientBoostingRegressor(max_iter=10, min_samples_leaf=5),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_missing_goes_where_it_went(estimator: Any, tmp_path: Path) -> None:
    rows = np.where(_RANDOM.random(ROWS.shape) < 0.3, np.float32(np.nan), ROWS)
    estimator.fit(rows, THREE)
    assert_faithful(_importer(estimator), tmp_path, {"input": rows})


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
def test_categories_are_sets_as_before(labels: Any, tmp_path: Path) -> None:
    codes = _RANDOM.integers(0, 9, size=(len(ROWS), 2)) * np.array([1, 10])
    rows = np.hstack([ROWS, codes]).astype(np.float32)
    wanted = (labels + codes[:, 0] % 3 + codes[:, 1] // 10 % 2) % (labels.max() + 1)
    rows[::11, -1] = np.nan
    estimator = HistGradientBoostingClassifier(
        max_iter=12, min_samples_leaf=3, categorical_features=[5, 6]
    ).fit(rows, wanted)
    unknown = rows.copy()
    unknown[::5, -2:] = [77, 3]
    unknown[::7, -2] = np.nan
    assert_faithful(_importer(estimator), tmp_path, {"input": np.vstack([rows, unknown])})


def test_leaves_that_all_speak_for_one_class_do_not_decide_by_votes(tmp_path: Path) -> None:
    estimator = HistGradientBoostingClassifier(max_iter=1, learning_rate=0.01, min_samples_leaf=20)
    estimator.fit(ROWS, TWO)
    for some in estimator._predictors:
        for each in some:
            each.nodes["value"] = np.abs(each.nodes["value"])
    estimator._baseline_prediction[:] = 0
    assert_faithful(_importer(estimator), tmp_path, {"input": ROWS})


def test_categories_that_are_text_are_refused_with_what_helps(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    table = pandas.DataFrame({"size": VALUES, "colour": pandas.Categorical(np.array(["r", "g", "b"])[THREE])})
    estimator = HistGradientBoostingRegressor(max_iter=3, categorical_features="from_dtype")
    estimator.fit(table, VALUES)
    with pytest.raises(UnsupportedModelError, match="OrdinalEncoder"):
        _importer(estimator).convert(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "scaler", [StandardScaler(), MinMaxScaler(), RobustScaler(), MaxAbsScaler()], ids=str
)
@pytest.mark.parametrize(
    "trees",
    [RandomForestClassifier(5, random_state=0), HistGradientBoostingClassifier(max_iter=4, max_bins=20)],
    ids=lambda each: type(each).__name__,
)
def test_scalers_are_folded_into_thresholds_exactly(scaler: Any, trees: Any, tmp_path: Path) -> None:
    rows = (ROWS * 7).round().astype(np.float64) * 1.1
    estimator = make_pipeline(scaler, trees).fit(rows, THREE)
    raw = _on_thresholds(estimator[-1]).astype(np.float64)
    on_thresholds = scaler.inverse_transform(raw).astype(np.float32)
    beside = [np.nextafter(on_thresholds, np.float32(end)) for end in (-np.inf, np.inf)]
    asked = np.vstack([on_thresholds, *beside])
    asked[np.abs(asked) < np.finfo(np.float32).tiny] = 0  # as devices see them
    found = assert_faithful(_importer(estimator), tmp_path, {"input": asked})
    assert not {"Sub", "Mul", "ai.onnx.ml.Scaler"} & set(operators(found["cpu"]))


def test_a_forest_behind_other_steps_is_one_graph_with_them(tmp_path: Path) -> None:
    estimator = make_pipeline(StandardScaler(), PCA(3), RandomForestRegressor(5, random_state=0))
    estimator.fit(ROWS, VALUES)
    found = assert_faithful(_importer(estimator), tmp_path, {"input": ROWS * np.float32(1.01)})
    assert {node.domain for node in found["standard"].graph.node} == {""}
    assert "MatMul" in operators(found["cpu"])


@given(st.floats(-1e30, 1e30))
def test_a_threshold_is_rounded_to_the_largest_number_below(threshold: float) -> None:
    (rounded,) = rounded_down(np.array([threshold]))
    assert float(rounded) <= threshold < float(np.nextafter(rounded, np.float32(np.inf)))
