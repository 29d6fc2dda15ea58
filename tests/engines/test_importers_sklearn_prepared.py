"""What is made of columns before a model: rows that lie on edges, are unknown, or are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classical_models import assert_faithful
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    RobustScaler,
    StandardScaler,
)

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.sklearn import SklearnImporter

_RANDOM = np.random.default_rng(3)
_TENTHS = np.round(_RANDOM.normal(size=(80, 3)), 1)
_CODES = np.stack([np.arange(80) % 4, np.arange(80) // 3 % 5, np.minimum(np.arange(80) % 9, 4)], axis=1)
_VALUES = _RANDOM.normal(size=80)
_GAPS = np.where(np.arange(80)[:, None] % np.array([5, 7, 100]) == 1, np.nan, _TENTHS)
_EMPTY = np.concatenate([_GAPS, np.full((80, 1), np.nan)], axis=1)
_MARKED = np.where(np.isnan(_GAPS), -999.0, _GAPS)


def _importer(estimator: Any, opset: int = 17) -> SklearnImporter:
    return SklearnImporter(estimator, ImportOptions(opset=opset), "")


def _faithful(step: Any, fitted: Any, rows: Any, folder: Path, opset: int = 17) -> None:
    estimator = make_pipeline(step, Ridge()).fit(np.asarray(fitted, np.float64), _VALUES)
    assert_faithful(_importer(estimator, opset), folder, {"input": np.asarray(rows, np.float32)})


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_rows_are_divided_by_the_norm_that_scikit_learn_takes(norm: str, opset: int, tmp_path: Path) -> None:
    rows = [[1, -4, 1], [0, 0, 0], [1e25, -3e25, 1], [3e38, 3e38, -3e38], [-2, -3, -1], [1e-12, 0, 1e-13]]
    unnormed = [[1e-20, -2e-20, 0], [1e-15, 0, 1e-15]]  # too short to be divided
    _faithful(Normalizer(norm=norm), _TENTHS, [*rows, *unnormed], tmp_path, opset)


@pytest.mark.parametrize("encode", ["ordinal", "onehot", "onehot-dense"])
def test_a_value_on_an_edge_is_in_the_bin_that_it_is_in_for_numbers_of_64_bits(
    encode: str, tmp_path: Path
) -> None:
    step = KBinsDiscretizer(4, encode=encode, strategy="uniform")
    step.fit(_TENTHS)
    edges = np.stack(list(step.bin_edges_), axis=1)
    _faithful(step, _TENTHS, np.concatenate([_TENTHS, edges, edges * 10]), tmp_path)


@pytest.mark.parametrize("scalers", [(StandardScaler(),), (MinMaxScaler((-1, 2)), RobustScaler())], ids=str)
@pytest.mark.parametrize("in_columns", [False, True])
def test_a_value_that_was_scaled_is_in_the_bin_that_it_is_in_for_numbers_of_64_bits(
    scalers: Any, in_columns: bool, tmp_path: Path
) -> None:
    steps: Any = make_pipeline(*scalers, KBinsDiscretizer(8, encode="ordinal"))
    if in_columns:
        steps = ColumnTransformer([("bins", steps, [0, 2]), ("rest", "passthrough", [1])])
    rows = np.concatenate([_TENTHS * 3.3 + 17, np.nextafter(np.float32(_TENTHS * 3.3 + 17), np.float32(99))])
    _faithful(steps, np.float32(_TENTHS * 3.3 + 17), rows, tmp_path)


_CONSTANT = np.where([True, False, True], _TENTHS, 3.0)
_BEYOND = [[-3e38, -3e38, -3e38], [3e38, 3e38, 3e38], [0, 0, 0]]


@pytest.mark.parametrize(
    ("scaler", "fitted"),
    [
        (StandardScaler(), _CONSTANT),
        (MinMaxScaler(), _CONSTANT),
        (MinMaxScaler(clip=True), _TENTHS),
        (MinMaxScaler((-1, 2), clip=True), _CONSTANT),
    ],
    ids=["constant", "constant in a range", "clipped", "constant and clipped"],
)
def test_an_edge_that_no_number_is_below_has_its_bin_behind_a_scaler(
    scaler: Any, fitted: Any, tmp_path: Path
) -> None:
    step = make_pipeline(scaler, KBinsDiscretizer(4, encode="ordinal", strategy="uniform"))
    _faithful(step, fitted, np.concatenate([fitted, _BEYOND]), tmp_path)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, -0.1, 0.5, 0.0])
def test_a_value_at_the_threshold_is_as_far_above_it_as_for_numbers_of_64_bits(
    threshold: float, tmp_path: Path
) -> None:
    rows = np.full((2, 3), threshold) * [[1], [1.001]]
    _faithful(Binarizer(threshold=threshold), _TENTHS, rows, tmp_path)


_UNKNOWN = [[0, 1, 2], [2.7, 1, 0], [3, -0.5, 9], [1e20, 0, 3], [2, 2, 2]]


@pytest.mark.parametrize(
    ("encoder", "fitted"),
    [
        (OneHotEncoder(handle_unknown="ignore"), _CODES),
        (OneHotEncoder(handle_unknown="ignore"), _CODES / 2),
        (OneHotEncoder(handle_unknown="ignore", drop="first"), _CODES),
        (OneHotEncoder(handle_unknown="ignore", min_frequency=12), _CODES),
        (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=12), _CODES),
        (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=12, drop="first"), _CODES),
        (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=79), _CODES),
        (OneHotEncoder(handle_unknown="ignore", dtype=np.int64), _CODES),
    ],
    ids=str,
)
def test_a_number_that_is_no_category_has_zeros_alone(encoder: Any, fitted: Any, tmp_path: Path) -> None:
    _faithful(encoder, fitted, np.concatenate([_UNKNOWN, fitted]), tmp_path)


def test_what_is_missing_is_a_category_of_its_own(tmp_path: Path) -> None:
    codes = np.where(_CODES == 2, np.nan, _CODES)
    _faithful(OneHotEncoder(handle_unknown="ignore"), codes, np.concatenate([_UNKNOWN, codes]), tmp_path)


def test_a_category_that_no_row_can_have_is_refused() -> None:
    estimator = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LinearRegression())
    estimator.fit(np.arange(80).reshape(-1, 1) % 3 / 10, _VALUES)
    with pytest.raises(UnsupportedModelError, match=r"category 0\.1 is none that a row can have.*FP32"):
        _importer(estimator).converted({})


@pytest.mark.parametrize(
    ("imputer", "fitted"),
    [
        (SimpleImputer(add_indicator=True), _GAPS),
        (SimpleImputer(strategy="median", add_indicator=True, missing_values=-999.0), _MARKED),
        (SimpleImputer(), _EMPTY),
        (SimpleImputer(add_indicator=True), _EMPTY),
        (SimpleImputer(keep_empty_features=True), _EMPTY),
    ],
    ids=["gaps", "marked", "empty", "empty and told", "empty and kept"],
)
def test_columns_that_tell_of_gaps_come_last_and_empty_ones_go(
    imputer: Any, fitted: Any, tmp_path: Path
) -> None:
    _faithful(imputer, fitted, fitted, tmp_path)


def test_a_mark_for_what_is_missing_that_no_row_can_have_is_refused() -> None:
    estimator = make_pipeline(SimpleImputer(missing_values=-0.1), LinearRegression()).fit(_TENTHS, _VALUES)
    with pytest.raises(UnsupportedModelError, match=r"takes -0\.1 for missing, which no FP32 number is"):
        _importer(estimator).converted({})
