"""Estimators that were fitted on tables: an input for each column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classical_models import ROWS, THREE, VALUES, assert_faithful
from ml_models import operators
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.sklearn import SklearnImporter

pandas = pytest.importorskip("pandas", reason="needs pandas, which such estimators are fitted with")

pytestmark = pytest.mark.frameworks

FLOAT, INT64, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.STRING
_RANDOM = np.random.default_rng(11)
_COLOURS = _RANDOM.choice(np.array(["red", "green", "blue"], object), len(ROWS))
_GRADES = _RANDOM.integers(0, 4, len(ROWS))
_AGES = np.where(_RANDOM.random(len(ROWS)) < 0.2, np.nan, np.abs(ROWS[:, 3])).astype(np.float32)


def _table(**columns: NDArray[Any]) -> Any:
    return pandas.DataFrame(
        {"size": ROWS[:, 0].astype(np.float64), "age": _AGES.astype(np.float64), **columns}
    )


def _rows(**columns: NDArray[Any]) -> dict[str, NDArray[Any]]:
    rows = {"size": ROWS[:, 0], "age": _AGES, **columns}
    return {name: column.reshape(-1, 1) for name, column in rows.items()}


def _importer(estimator: Any, **options: Any) -> SklearnImporter:
    return SklearnImporter(estimator, ImportOptions(**options), "")


def _inputs(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    return {
        value.name: (value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim[1].dim_value)
        for value in model.graph.input
    }


_NUMBERS = ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["size", "age"])


def test_numbers_and_whole_numbers_are_inputs_of_their_own(tmp_path: Path) -> None:
    columns = ColumnTransformer([_NUMBERS, ("codes", OneHotEncoder(), ["grade"])])
    estimator = make_pipeline(columns, LogisticRegression()).fit(_table(grade=_GRADES), THREE)
    importer = _importer(estimator)
    found = assert_faithful(importer, tmp_path, _rows(grade=_GRADES))
    assert _inputs(found["cpu"]) == {"size": (FLOAT, 1), "age": (FLOAT, 1), "grade": (INT64, 1)}
    assert importer.facts["inputs"] == "one for each column"
    assert importer.facts["features"] == 3


@pytest.mark.parametrize("encoder", [OneHotEncoder(handle_unknown="ignore"), OrdinalEncoder()], ids=str)
def test_text_is_encoded_inside_the_graph_on_a_cpu(encoder: Any, tmp_path: Path) -> None:
    columns = ColumnTransformer([_NUMBERS, ("colours", encoder, ["colour"])])
    estimator = make_pipeline(columns, Ridge()).fit(_table(colour=_COLOURS), VALUES)
    left = {"ai.onnx.ml.OneHotEncoder", "ai.onnx.ml.LabelEncoder"}
    found = assert_faithful(_importer(estimator), tmp_path, _rows(colour=_COLOURS), left=left)
    assert _inputs(found["cpu"])["colour"] == (STRING, 1)


_TREES = [
    RandomForestClassifier(20, max_depth=6, random_state=0),
    HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5),
    GradientBoostingClassifier(n_estimators=5, random_state=0),
]


@pytest.mark.parametrize("trees", _TREES, ids=lambda each: type(each).__name__)
def test_columns_that_are_scaled_go_into_trees_exactly(trees: Any, tmp_path: Path) -> None:
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("codes", encoder, ["grade"]), _NUMBERS])
    estimator = make_pipeline(columns, trees)
    rows = _rows(grade=_GRADES)
    for name in ("size", "age"):  # few values, so that many rows lie where trees divide
        rows[name] = (rows[name] * 4).round().astype(np.float32) * np.float32(1.1)
    table = pandas.DataFrame({name: column[:, 0].astype(np.float64) for name, column in rows.items()})
    estimator.fit(table.assign(grade=_GRADES), THREE)
    # What is missing is filled with the mean, which is a threshold where there is a row of it, too.
    found = assert_faithful(_importer(estimator), tmp_path, rows)
    assert set(_inputs(found["cpu"])) == set(rows)
    assert "ai.onnx.ml.Scaler" not in operators(found["cpu"])
    assert not {"Sub", "Mul"} & set(operators(found["cpu"]))


def test_what_an_imputer_fills_in_lies_on_its_side_of_a_threshold(tmp_path: Path) -> None:
    values = np.repeat([np.nan, 0.1, 0.7, 0.4], 30)
    steps = (SimpleImputer(), HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=5))
    estimator = make_pipeline(*steps).fit(values[:, None], np.repeat([1.0, 0.0, 5.0, 1.0], 30))
    mean = float(np.float32(0.1) * 1)
    estimator[0].statistics_[:] = mean - 1e-10  # FP32 has it above the threshold
    for some in estimator[1]._predictors:
        nodes = some[0].nodes
        nodes["num_threshold"][nodes["is_leaf"] == 0] = mean - 1e-10
    assert_faithful(_importer(estimator), tmp_path, {"input": values.astype(np.float32)[:, None]})


def test_text_of_a_column_is_counted(tmp_path: Path) -> None:
    texts = np.array(
        [f"{colour} and {other}" for colour, other in zip(_COLOURS, _COLOURS[::-1], strict=True)], object
    )
    columns = ColumnTransformer([_NUMBERS, ("words", CountVectorizer(), "words")])
    estimator = make_pipeline(columns, Ridge()).fit(_table(words=texts), VALUES)
    assert_faithful(_importer(estimator), tmp_path, _rows(words=texts), left={"ai.onnx.ml.LabelEncoder"})


def test_a_column_may_be_told_its_type_and_no_other_may(tmp_path: Path) -> None:
    columns = ColumnTransformer([_NUMBERS, ("codes", OneHotEncoder(), ["grade"])])
    estimator = make_pipeline(columns, Ridge()).fit(_table(grade=_GRADES), VALUES)
    importer = _importer(estimator, input_dtypes={"grade": "float32"})
    importer.convert(tmp_path / "model.onnx")
    assert _inputs(onnx.load(tmp_path / "model.onnx"))["grade"] == (FLOAT, 1)
    with pytest.raises(UnsupportedModelError, match="no input 'weight'; the inputs are size, age, grade"):
        _importer(estimator, input_dtypes={"weight": "float32"})


def test_a_table_of_numbers_alone_is_a_matrix(tmp_path: Path) -> None:
    table = pandas.DataFrame(ROWS.astype(np.float64), columns=list("abcde"))
    importer = _importer(make_pipeline(StandardScaler(), Ridge()).fit(table, VALUES))
    assert_faithful(importer, tmp_path, {"input": ROWS})
    assert importer.facts["inputs"] == "one matrix"
