"""Columns find their inputs by names wherever the model's source knows some, and never by chance."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headrace_engines import imported
from headrace_engines.data.load import load
from headrace_engines.data.options import Data, DataOptions
from headrace_engines.errors import DataError
from headrace_engines.imported import FileOptions
from headrace_engines.importers.importer import COLUMNS, ImportOptions
from headrace_engines.importers.sklearn import SklearnImporter
from headrace_engines.progress import Stages
from headrace_engines.spec import TensorSpec

pd = pytest.importorskip("pandas", reason="tables need the extra `data`")

_INPUT = TensorSpec("input", np.dtype(np.float32), (4,))
_FITTED = ("a", "b", "c", "d")
_CELLS = np.arange(40.0).reshape(10, 4)


def _load(source: object, known: tuple[str, ...] = _FITTED, *inputs: TensorSpec, **options: Any) -> Data:
    return load(DataOptions(str(source), **options), inputs or [_INPUT], lambda arrays: arrays, known)


def _csv(folder: Path, *names: str, header: bool = True) -> Path:
    """Write columns whose cells are those of the letter that they are named after, whatever the case."""
    cells = {letter: _CELLS[:, place] for place, letter in enumerate(_FITTED)}
    path = folder / "rows.csv"
    table = pd.DataFrame({name: cells.get(name.lower(), np.arange(10.0)) for name in names})
    table.to_csv(path, index=False, header=header)
    return path


@pytest.mark.parametrize("names", [("a", "b", "c", "d"), ("d", "c", "b", "a"), ("b", "id", "d", "c", "a")])
def test_columns_in_any_order_are_those_of_their_names(names: tuple[str, ...], tmp_path: Path) -> None:
    data = _load(_csv(tmp_path, *names))
    np.testing.assert_array_equal(data.rows["input"], _CELLS)
    told = ("1 columns of the data were left out, since the model does not take them: 'id'",)
    assert data.notes == (told if "id" in names else ())


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("A", "b", "c", "d"), "there is no column 'a', on which the model was fitted (did you mean 'A'?)"),
        (("a", "b", "c"), "it lacks 'd' and has besides none; name them as the model does"),
        (("a", "b", "c", "dd", "id"), "it lacks 'd' and has besides 'dd', 'id'"),
        (("x1", "x2", "x3", "x4"), "none of its columns has the name of one that the model was fitted on"),
        (("x1", "x2", "x3", "x4"), "in its order: --columns input=COLUMN,"),
    ],
)
def test_columns_that_are_missing_are_named(names: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(complaint)):
        _load(_csv(tmp_path, *names))


def test_without_names_on_either_side_the_order_decides(tmp_path: Path) -> None:
    headless = _csv(tmp_path, *_FITTED, header=False)
    np.testing.assert_array_equal(_load(headless).rows["input"], _CELLS)
    shuffled = _csv(tmp_path, "d", "c", "b", "a")
    np.testing.assert_array_equal(_load(shuffled, ()).rows["input"], _CELLS[:, ::-1])
    told = _load(shuffled, columns={"input": ("a", "b", "c", "d")})
    np.testing.assert_array_equal(told.rows["input"], _CELLS)


def test_spaces_may_have_become_underscores(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    pd.DataFrame({"b b": _CELLS[:, 1], "a a": _CELLS[:, 0]}).to_csv(path, index=False)
    two = TensorSpec("input", np.dtype(np.float32), (2,))
    np.testing.assert_array_equal(_load(path, ("a_a", "b_b"), two).rows["input"], _CELLS[:, :2])


def test_an_input_for_each_column_takes_no_other(tmp_path: Path) -> None:
    inputs = [TensorSpec(name, np.dtype(np.float32), (1,)) for name in ("a", "b")]
    with pytest.raises(DataError, match=r"there is no column 'a', which the model takes .did you mean 'A'"):
        _load(_csv(tmp_path, "A", "b"), (), *inputs)
    assert "'id'" in _load(_csv(tmp_path, "a", "b", "id"), (), *inputs).notes[0]


def test_a_function_may_return_a_table(tmp_path: Path) -> None:
    _csv(tmp_path, "d", "c", "b", "a", "y")
    program = tmp_path / "rows.py"
    program.write_text(
        f"import pandas as pd\ndef table():\n    return pd.read_csv({str(tmp_path / 'rows.csv')!r})\n"
    )
    data = _load(f"{program}:table", labels="y")
    np.testing.assert_array_equal(data.rows["input"], _CELLS)
    assert data.labels is not None


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"x": ("z",)}, ""),
        ({"x": ("z", "q")}, "input 'x' takes one array, and --columns names 'z', 'q'"),
        ({"x": ("zz",)}, "there is no array 'zz' for input 'x'; it holds 'z', 'q'"),
        ({"nope": ("z",)}, "the model has no input 'nope'; it has 'x'"),
    ],
)
def test_an_array_may_be_named_for_an_input(
    columns: dict[str, tuple[str, ...]], complaint: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", z=_CELLS, q=-_CELLS)
    tensor = TensorSpec("x", np.dtype(np.float32), (4,))
    if not complaint:
        data = _load(tmp_path / "rows.npz", (), tensor, columns=columns)
        np.testing.assert_array_equal(data.rows["x"], _CELLS)
        return
    with pytest.raises(DataError, match=re.escape(complaint)):
        _load(tmp_path / "rows.npz", (), tensor, columns=columns)


def test_scikit_learn_tells_the_columns_of_the_table_that_it_was_fitted_on() -> None:
    table = pd.DataFrame(_CELLS, columns=list(_FITTED))
    named = SklearnImporter(
        make_pipeline(StandardScaler(), LinearRegression()).fit(table, _CELLS[:, 0]), ImportOptions(), ""
    )
    assert json.loads(str(named.facts[COLUMNS])) == list(_FITTED)
    nameless = SklearnImporter(LinearRegression().fit(_CELLS, _CELLS[:, 0]), ImportOptions(), "")
    assert COLUMNS not in nameless.facts


def test_a_table_in_another_order_is_answered_as_it_should_be(tmp_path: Path) -> None:
    """From the file of an estimator to the rows that everything is judged by."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(size=(200, 4)), columns=list(_FITTED))
    right = (table.a * 3 - table.b > 0).astype(int)
    joblib.dump(LogisticRegression().fit(table, right), tmp_path / "model.joblib")
    shuffled = tmp_path / "rows.csv"
    table.assign(y=right)[["d", "c", "b", "a", "y"]].to_csv(shuffled, index=False)
    options = FileOptions(
        ImportOptions(is_trusted=True), DataOptions(str(shuffled), labels="y"), is_trusted=True
    )
    source = imported.source(tmp_path / "model.joblib", options)
    prepared = source.prepare(tmp_path, Stages(lambda step, fraction: None))
    assert prepared.labels is not None
    assert np.mean(prepared.expected[0] == prepared.labels) > 0.9


def test_a_row_that_the_source_does_not_answer_is_named(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 4))
    joblib.dump(LinearRegression().fit(rows, rows[:, 0]), tmp_path / "model.joblib")
    rows[7:, 2] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    options = FileOptions(
        ImportOptions(is_trusted=True), DataOptions(str(tmp_path / "rows.npy")), is_trusted=True
    )
    source = imported.source(tmp_path / "model.joblib", options)
    with pytest.raises(
        DataError, match=r"^row \d+ of input 'input' has NaN, as have \d+ more rows: put a number"
    ):
        source.prepare(tmp_path, Stages(lambda step, fraction: None))
