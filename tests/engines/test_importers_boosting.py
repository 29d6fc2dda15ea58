from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from classical_models import FEATURES, ROWS, THREE, TWO, VALUES, assert_faithful
from numpy.typing import NDArray
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from headrace_engines.errors import InputError, ModelFileError, UnsupportedModelError
from headrace_engines.importers.boosting import open_source
from headrace_engines.importers.importer import Importer, ImportOptions
from headrace_engines.importers.sklearn import SklearnImporter

xgboost = pytest.importorskip("xgboost", reason="needs the extra `boost`")
lightgbm = pytest.importorskip("lightgbm", reason="needs the extra `boost`")
pytest.importorskip("onnxmltools", reason="needs the extra `boost`")

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore:.*valid feature names")]

_TRUSTED = ImportOptions(is_trusted=True)
_RANDOM = np.random.default_rng(5)
_HOLES = np.where(_RANDOM.random(ROWS.shape) < 0.25, np.float32(np.nan), ROWS)
_LABELS = {"two": TWO, "three": THREE}
_QUIET = {"verbose": -1, "min_data_in_leaf": 3, "num_threads": 1, "deterministic": True}


def _stored(model: Any, path: Path) -> Path:
    """The model as its library stores it, or pickled where the file's name says so."""
    if path.suffix == ".joblib":
        joblib.dump(model, path)
    else:
        (model.booster_ if hasattr(model, "booster_") else model).save_model(path)
    return path


def _on_thresholds(thresholds: NDArray[np.float64], rows: int = 150) -> NDArray[np.float32]:
    nearest = thresholds.astype(np.float32)
    beside = [np.nextafter(nearest, np.float32(end)) for end in (-np.inf, np.inf)]
    return _RANDOM.choice(np.concatenate([nearest, *beside]), size=(rows, FEATURES)).astype(np.float32)


def _thresholds(model: Any) -> NDArray[np.float64]:
    if hasattr(model, "get_booster"):
        splits = model.get_booster().trees_to_dataframe()["Split"]
    else:
        splits = model.booster_.trees_to_dataframe()["threshold"].astype(float)
    found: NDArray[np.float64] = splits.dropna().to_numpy(np.float64)
    return found


@pytest.mark.parametrize("suffix", [".json", ".ubj", ".joblib"])
@pytest.mark.parametrize("labels", _LABELS)
def test_xgboost_classifies_as_before(labels: str, suffix: str, tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=12, max_depth=4, n_jobs=1).fit(_HOLES, _LABELS[labels])
    importer = open_source(_stored(model, tmp_path / f"model{suffix}"), _TRUSTED)
    found = assert_faithful(importer, tmp_path, {"input": _HOLES})
    assert set(found) == {"cpu", "standard"}
    assert [output.name for output in found["cpu"].graph.output] == ["label", "probabilities"]
    pytest.importorskip("pandas", reason="thresholds are read from tables")
    assert_faithful(importer, tmp_path, {"input": _on_thresholds(_thresholds(model))})


@pytest.mark.parametrize("suffix", [".json", ".ubj", ".joblib"])
@pytest.mark.parametrize(
    "objective",
    [
        "reg:squarederror",
        "reg:absoluteerror",
        "reg:pseudohubererror",
        "reg:squaredlogerror",
        "count:poisson",
        "reg:gamma",
        "reg:tweedie",
    ],
)
def test_xgboost_predicts_as_before(objective: str, suffix: str, tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(objective=objective, n_estimators=12, max_depth=4, n_jobs=1)
    model.fit(ROWS, np.abs(VALUES) / 10 + 0.1)
    importer = open_source(_stored(model, tmp_path / f"model{suffix}"), _TRUSTED)
    found = assert_faithful(importer, tmp_path, {"input": _HOLES})
    assert [output.name for output in found["cpu"].graph.output] == ["prediction"]
    assert importer.facts["trees"] == 12


def test_xgboost_stops_where_training_was_best(tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(n_estimators=60, learning_rate=1.0, early_stopping_rounds=2, n_jobs=1)
    model.fit(ROWS[:120], VALUES[:120], eval_set=[(ROWS[120:], VALUES[120:])], verbose=False)
    importer = open_source(_stored(model, tmp_path / "model.joblib"), _TRUSTED)
    assert importer.facts["trees"] == model.best_iteration + 1
    (answer,) = importer.answers({"input": ROWS})
    np.testing.assert_allclose(answer[:, 0], model.predict(ROWS), rtol=1e-6)
    assert_faithful(importer, tmp_path, {"input": ROWS})


def test_xgboost_forests_and_boosters_of_classes_are_read(tmp_path: Path) -> None:
    forest = xgboost.XGBRFClassifier(n_estimators=6, n_jobs=1).fit(ROWS, TWO)
    assert_faithful(
        open_source(_stored(forest, tmp_path / "forest.joblib"), _TRUSTED), tmp_path, {"input": ROWS}
    )
    parameters = {"objective": "multi:softmax", "num_class": 3, "nthread": 1}
    names = [f"column {place}" for place in range(FEATURES)]
    booster = xgboost.train(parameters, xgboost.DMatrix(ROWS, THREE, feature_names=names), 5)
    importer = open_source(_stored(booster, tmp_path / "booster.ubj"), _TRUSTED)
    assert_faithful(importer, tmp_path, {"input": ROWS})
    assert importer.facts["classes"] == "[0, 1, 2]"


def test_xgboost_categories_are_sets(tmp_path: Path) -> None:
    codes = _RANDOM.integers(0, 7, size=len(ROWS))
    rows = np.hstack([ROWS[:, :2], codes[:, None]]).astype(np.float32)
    rows[::9, 2] = np.nan
    matrix = xgboost.DMatrix(rows, TWO ^ (codes % 2), feature_types=["q", "q", "c"], enable_categorical=True)
    parameters = {"objective": "binary:logistic", "tree_method": "hist", "max_cat_to_onehot": 1, "nthread": 1}
    booster = xgboost.train(parameters, matrix, 8)
    assert_faithful(
        open_source(_stored(booster, tmp_path / "model.json"), _TRUSTED), tmp_path, {"input": rows}
    )


@pytest.mark.parametrize("suffix", [".txt", ".joblib"])
@pytest.mark.parametrize("labels", _LABELS)
def test_lightgbm_classifies_as_before(labels: str, suffix: str, tmp_path: Path) -> None:
    model = lightgbm.LGBMClassifier(n_estimators=12, **_QUIET).fit(
        _HOLES.astype(float) + 1e-9, _LABELS[labels]
    )
    importer = open_source(_stored(model, tmp_path / f"model{suffix}"), _TRUSTED)
    found = assert_faithful(importer, tmp_path, {"input": _HOLES})
    assert [output.name for output in found["cpu"].graph.output] == ["label", "probabilities"]
    pytest.importorskip("pandas", reason="thresholds are read from tables")
    assert_faithful(importer, tmp_path, {"input": _on_thresholds(_thresholds(model))})


@pytest.mark.parametrize("suffix", [".txt", ".joblib"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "regression_l1"},
        {"objective": "huber"},
        {"objective": "quantile"},
        {"objective": "poisson"},
        {"objective": "gamma"},
        {"objective": "tweedie"},
        {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
        {"boosting_type": "dart"},
    ],
    ids=str,
)
def test_lightgbm_predicts_as_before(options: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    model = lightgbm.LGBMRegressor(n_estimators=12, **_QUIET, **options).fit(ROWS, np.abs(VALUES) / 10 + 0.1)
    importer = open_source(_stored(model, tmp_path / f"model{suffix}"), _TRUSTED)
    assert_faithful(importer, tmp_path, {"input": _HOLES})


def test_lightgbm_keeps_its_classes_its_slope_and_its_sets(tmp_path: Path) -> None:
    codes = _RANDOM.integers(0, 9, size=len(ROWS))
    rows = np.hstack([ROWS[:, :2], codes[:, None]]).astype(np.float32)
    labels = np.array([7, 3])[TWO ^ (codes % 2)]
    model = lightgbm.LGBMClassifier(n_estimators=8, sigmoid=2.5, min_data_per_group=1, cat_smooth=1, **_QUIET)
    model.fit(rows, labels, categorical_feature=[2])
    importer = open_source(_stored(model, tmp_path / "model.joblib"), _TRUSTED)
    assert json.loads(str(importer.facts["classes"])) == [3, 7]
    assert set(importer.answers({"input": rows})[0]) == {3, 7}
    assert_faithful(importer, tmp_path, {"input": rows})


def test_boosters_are_steps_of_pipelines_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from headrace_engines.importers import sklearn

    for step in (
        xgboost.XGBClassifier(n_estimators=5, n_jobs=1),
        xgboost.XGBRegressor(n_estimators=5, n_jobs=1),
        lightgbm.LGBMClassifier(n_estimators=5, **_QUIET),
        lightgbm.LGBMRegressor(n_estimators=5, **_QUIET),
    ):
        pipeline = make_pipeline(StandardScaler(), step).fit(ROWS.astype(np.float64), THREE)
        joblib.dump(pipeline, tmp_path / "pipeline.joblib")
        importer = sklearn.open_source(tmp_path / "pipeline.joblib", _TRUSTED)
        # XGBoost's thresholds are values that were scaled in FP64: rows of the training lie on them.
        assert_faithful(importer, tmp_path, {"input": ROWS})


def _refused() -> dict[str, Any]:
    matrix, data = xgboost.DMatrix(ROWS, VALUES), {"data": ROWS, "label": VALUES}

    def booster(**parameters: Any) -> Any:
        return xgboost.train({"nthread": 1, **parameters}, matrix, 2)

    def trees(**parameters: Any) -> Any:
        return lightgbm.train({**_QUIET, **parameters}, lightgbm.Dataset(**data), 2)

    return {
        "dart": booster(booster="dart"),
        "gblinear": booster(booster="gblinear"),
        "reg:logistic": xgboost.train({"objective": "reg:logistic"}, xgboost.DMatrix(ROWS, TWO), 2),
        "takes -1.0 for missing": xgboost.XGBRegressor(n_estimators=2, missing=-1.0).fit(ROWS, VALUES),
        "several targets": xgboost.XGBRegressor(n_estimators=2).fit(ROWS, ROWS[:, :2]),
        "fair": trees(objective="fair"),
        "regression sqrt": trees(reg_sqrt=True),
        "multiclassova": lightgbm.train(
            {**_QUIET, "objective": "multiclassova", "num_class": 3}, lightgbm.Dataset(ROWS, THREE), 2
        ),
        "linear trees": trees(linear_tree=True),
        "zero_as_missing": lightgbm.train(
            {**_QUIET, "zero_as_missing": True},
            lightgbm.Dataset(np.where(ROWS > 1, 0, ROWS), VALUES, params={"zero_as_missing": True}),
            2,
        ),
    }


def test_what_the_exporter_would_write_wrongly_is_refused_by_name(tmp_path: Path) -> None:
    for complaint, model in _refused().items():
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps(model))
        with pytest.raises(UnsupportedModelError, match=complaint):
            open_source(path, _TRUSTED)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.json", b'{"learner": {'),
        ("model.txt", b"tree\nversion=v4\nnum_class=1\n"),
        ("model.pkl", b"\x80\x04"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=name):
        open_source(path, _TRUSTED)


def test_what_it_does_not_take_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump({"model": 1}, path)
    with pytest.raises(UnsupportedModelError, match="holds dict"):
        open_source(path, _TRUSTED)
    model = xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(ROWS, VALUES)
    _stored(model, path)
    with pytest.raises(UnsupportedModelError, match="no input 'x'"):
        open_source(path, ImportOptions(is_trusted=True, input_shapes={"x": (5,)}))
    with pytest.raises(InputError, match="takes 5 features"):
        open_source(path, _TRUSTED).answers({"input": ROWS[:, :2]})


@pytest.mark.parametrize("suffix", [".json", ".ubj", ".joblib", ".txt"])
def test_features_that_somebody_named_are_told(suffix: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="names come from tables")
    names = [f"named {place}" for place in range(FEATURES)]
    make = lightgbm.LGBMRegressor if suffix == ".txt" else xgboost.XGBRegressor
    quiet = _QUIET if suffix == ".txt" else {}
    for rows, told in ((pandas.DataFrame(ROWS, columns=names), names), (ROWS, None)):
        model = make(n_estimators=2, n_jobs=1, **quiet).fit(rows, VALUES)
        facts = open_source(_stored(model, tmp_path / f"model{suffix}"), _TRUSTED).facts
        if told is None:
            assert "columns" not in facts
        else:
            assert [name.replace("_", " ") for name in json.loads(str(facts["columns"]))] == told


_CATEGORIES = np.column_stack([np.arange(len(ROWS)) % 6, ROWS[:, 1:]]).astype(np.float32)
_BROKEN = [0.5, 1.5, 2.7, 4.999, 5.5, -0.5, -0.999, -1, -1.5, np.nan, 6, 99, 1e9]
_ASKED = np.column_stack([_BROKEN, np.zeros((len(_BROKEN), FEATURES - 1))]).astype(np.float32)


def _with_categories(library: str) -> tuple[Any, dict[str, Any]]:
    if library == "lightgbm":
        return lightgbm.LGBMRegressor(n_estimators=6, **_QUIET), {"categorical_feature": [0]}
    kinds = ["c", *"q" * (FEATURES - 1)]
    told = {"enable_categorical": True, "feature_types": kinds, "max_cat_to_onehot": 1}
    return xgboost.XGBRegressor(n_estimators=6, n_jobs=1, **told), {}


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_a_number_between_categories_is_the_one_that_the_library_cuts_it_to(
    library: str, in_pipeline: bool, tmp_path: Path
) -> None:
    model, told = _with_categories(library)
    values = (_CATEGORIES[:, 0] % 2) * 3 + (_CATEGORIES[:, 0] == 0) * 5.0
    importer: Importer
    if in_pipeline:
        name = type(model).__name__.lower()
        told = {f"{name}__{key}": value for key, value in told.items()}
        pipeline = make_pipeline(FunctionTransformer(), model).fit(_CATEGORIES, values, **told)
        importer = SklearnImporter(pipeline, ImportOptions(), "")
    else:
        importer = open_source(
            _stored(model.fit(_CATEGORIES, values, **told), tmp_path / "m.joblib"), _TRUSTED
        )
    assert_faithful(importer, tmp_path, {"input": np.concatenate([_ASKED, _CATEGORIES])})


@pytest.mark.parametrize("suffix", [".json", ".joblib"])
def test_what_ranks_is_read(suffix: str, tmp_path: Path) -> None:
    model = xgboost.XGBRanker(n_estimators=4, n_jobs=1).fit(ROWS, TWO, qid=np.arange(len(ROWS)) // 10)
    assert_faithful(open_source(_stored(model, tmp_path / f"m{suffix}"), _TRUSTED), tmp_path, {"input": ROWS})


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"booster": "dart"}, "XGBoost's dart cannot be converted to ONNX; gbtree can"),
        ({"missing": -999.0}, r"XGBRegressor takes -999\.0 for missing: train it with NaN"),
    ],
)
def test_what_is_refused_alone_is_refused_in_a_pipeline(told: dict[str, Any], complaint: str) -> None:
    model = xgboost.XGBRegressor(n_estimators=2, n_jobs=1, **told)
    pipeline = make_pipeline(FunctionTransformer(), model).fit(ROWS, VALUES)
    with pytest.raises(UnsupportedModelError, match=complaint):
        SklearnImporter(pipeline, ImportOptions(), "").converted({})
