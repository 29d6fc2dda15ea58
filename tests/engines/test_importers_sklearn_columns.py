"""Estimators that were fitted on tables: an input for each column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classical_models import ROWS, THREE, VALUES, assert_faithful
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
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


def test_columns_go_into_trees(tmp_path: Path) -> None:
    columns = ColumnTransformer([_NUMBERS, ("codes", OrdinalEncoder(), ["grade"])], remainder="drop")
    estimator = make_pipeline(columns, RandomForestClassifier(5, random_state=0))
    estimator.fit(_table(grade=_GRADES, unused=_COLOURS), THREE)
    rows = _rows(grade=_GRADES)
    importer = _importer(estimator)
    model = tmp_path / "model.onnx"
    importer.convert(model)
    assert set(_inputs(onnx.load(model))) >= set(rows)


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
