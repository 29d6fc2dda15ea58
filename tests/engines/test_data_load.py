"""Rows from every kind of source, and what is said of those that do not fit."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace_engines.data.load import fingerprint, load, split
from headrace_engines.data.options import Data, DataOptions
from headrace_engines.errors import DataError, ExecutionError
from headrace_engines.spec import ANY, TensorSpec

_F32 = np.dtype(np.float32)
_TEXT = np.dtype(object)


def _tensor(name: str, *dims: int, dtype: Any = np.float32) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), dims)


def _takes_all(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    return arrays


def _load(source: object, *inputs: TensorSpec, **options: Any) -> Data:
    return load(DataOptions(None if source is None else str(source), **options), inputs, _takes_all)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "town", "height", "y"])
        writer.writerows([[20 + row, "north" if row % 2 else "south", 1.5, row % 3] for row in range(20)])
    return path


def test_a_table_by_names_of_its_columns(table: Path) -> None:
    inputs = _tensor("age", 1), _tensor("town", 1, dtype=object), _tensor("height")
    data = _load(table, *inputs, labels="y")
    assert data.rows["age"].shape == (20, 1)
    assert data.rows["age"].dtype == _F32
    assert data.rows["town"].tolist()[:2] == [["south"], ["north"]]
    assert data.rows["height"].shape == (20,)
    assert data.labels is not None
    assert data.labels.tolist() == [row % 3 for row in range(20)]
    assert not data.is_made_up


def test_a_table_whose_columns_are_one_input(table: Path) -> None:
    data = _load(table, _tensor("input", 2), labels="y", columns={"input": ("height", "age")})
    assert data.rows["input"][1].tolist() == [1.5, 21.0]


def test_labels_may_be_texts_and_several_a_row(table: Path, tmp_path: Path) -> None:
    data = _load(table, _tensor("input", 3), labels="town")
    assert data.labels is not None
    assert data.labels.tolist()[:3] == ["south", "north", "south"]
    np.savez(tmp_path / "rows.npz", x=_ROWS, y=_ROWS[:, :2])
    data = _load(tmp_path / "rows.npz", _tensor("x", 4), labels="y")
    assert data.labels is not None
    assert data.labels.tolist() == _ROWS[:, :2].tolist()


def test_a_table_without_names(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("1;2;0\n3;4;1\n5;6;0\n\n7;8;1\n")
    data = _load(path, _tensor("input", 2), labels="2")
    assert data.rows["input"].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0, 1]


def test_missing_numbers_stay_missing_where_the_input_has_a_value_for_it(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text("a,b\n1,\n2,5\n3,6\n4,7\n")
    rows = _load(path, _tensor("input", 2)).rows["input"]
    assert np.isnan(rows[0, 1])
    with pytest.raises(DataError, match=r"input 'input': line 2: nan is no int64"):
        _load(path, _tensor("input", 2, dtype=np.int64))


_ROWS = np.arange(24, dtype=np.float64).reshape(6, 4)


@pytest.mark.parametrize(
    ("held", "inputs", "expected"),
    [
        pytest.param({"x": _ROWS}, [_tensor("x", 4)], [6, 4], id="by name"),
        pytest.param({"other": _ROWS}, [_tensor("x", 4)], [6, 4], id="the only one for the only one"),
        pytest.param({"x": _ROWS}, [_tensor("x", 2, 2)], [6, 2, 2], id="flattened"),
        pytest.param({"x": _ROWS}, [_tensor("x", ANY)], [6, 4], id="of any size"),
        pytest.param({"x": _ROWS}, [_tensor("x", 4, dtype=np.uint8)], [6, 4], id="whole numbers"),
    ],
)
def test_arrays(
    held: dict[str, NDArray[Any]], inputs: list[TensorSpec], expected: list[int], tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", **held)  # type: ignore[arg-type]  # its flag has a name of its own
    data = _load(tmp_path / "rows.npz", *inputs)
    assert list(data.rows["x"].shape) == expected
    assert data.rows["x"].dtype == inputs[0].dtype
    assert data.rows["x"].flags.c_contiguous


def test_labels_of_arrays_are_an_array_of_the_file_or_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=_ROWS, y=np.arange(6)[:, None])
    np.save(tmp_path / "x.npy", _ROWS)
    np.save(tmp_path / "y.npy", np.arange(6))
    inside = _load(tmp_path / "rows.npz", _tensor("x", 4), labels="y")
    beside = _load(tmp_path / "x.npy", _tensor("x", 4), labels=str(tmp_path / "y.npy"))
    assert inside.labels is not None
    assert beside.labels is not None
    assert inside.labels.tolist() == beside.labels.tolist() == list(range(6))
    assert inside.sha256 == beside.sha256


def test_a_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "rows.py"
    rows = "{'x': np.arange(24).reshape(6, 4)}, np.arange(6)"
    program.write_text(f"import numpy as np\ndef made():\n    print('noise')\n    return {rows}\n")
    data = _load(f"{program}:made", _tensor("x", 4))
    assert data.rows["x"].shape == (6, 4)
    assert data.labels is not None
    assert len(data.labels) == 6
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "noise\n"), "standard output is the command's own"
    with pytest.raises(DataError, match="it has 'x'; its own labels are used where --labels is left away"):
        _load(f"{program}:made", _tensor("x", 4), labels="y")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise KeyError('gone')", "raised KeyError: 'gone'"),
        ("raise ValueError('mine')", "raised ValueError: mine"),
        ("raise SystemExit(3)", "ended the program (sys.exit, 3): expected a function that returns rows"),
        ("return None", "returned NoneType: expected an array"),
        ("return 3", "returned int: expected an array"),
        ("return {'x': [[1], [2, 3]]}", "returned no arrays"),
    ],
)
def test_a_function_that_does_not_deliver(body: str, complaint: str, tmp_path: Path) -> None:
    program = tmp_path / "rows.py"
    program.write_text(f"def made():\n    {body}\n")
    with pytest.raises(DataError, match=re.escape(complaint)):
        _load(f"{program}:made", _tensor("x", 4))
    with pytest.raises(DataError, match="has no function 'other'"):
        _load(f"{program}:other", _tensor("x", 4))


def _damaged(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.npz", b"", "the file is empty"),
        ("a.npz", b"PK\x03\x04cut", "may have been cut short"),
        ("a.npy", b"<html>no</html>", "is a web page"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"a,b\n", "there is no row below the names"),
        ("a.csv", b"a,a\n1,2\n", "two columns have the name 'a'"),
        ("a.csv", b"a,b\n1,2\n1\n", "line 3 has 1 cells, and there are 2 columns"),
        ("a.csv", b"a,b\n1,2\n\xff,2\n", "no CSV in UTF-8"),
        ("a.csv", b"a,b,c,d\n1,2,3,4\n1,2,x,4\n1,2,3,4\n1,2,3,4\n", "line 3, column 'c': 'x' is no number"),
        ("a.bin", b"1", "no data that can be read; expected a .npz"),
    ],
)
def test_damaged_files(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=complaint):
        _load(_damaged(tmp_path, name, content), _tensor("x", 4))


def test_objects_in_an_array_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects, which are not read"):
        _load(tmp_path / "a.npy", _tensor("x", 4))


@pytest.mark.parametrize(
    ("arrays", "inputs", "options", "complaint"),
    [
        ({"x": _ROWS}, [_tensor("x", 5)], {}, "rows of shape [4] came, [5] is expected"),
        ({"x": _ROWS[:, :, None]}, [_tensor("x", 4)], {}, "rows of shape [4, 1] came"),
        ({"ones": _ROWS, "y": _ROWS}, [_tensor("one", 4)], {}, "did you mean 'ones'?"),
        ({"x": _ROWS, "z": _ROWS[1:]}, [_tensor("x", 4), _tensor("z", 4)], {}, "differ: x 6, z 5"),
        ({"x": _ROWS, "y": np.ones(3)}, [_tensor("x", 4)], {"labels": "y"}, "differ: x 6, labels 3"),
        ({"x": _ROWS}, [_tensor("x", 4)], {"labels": "y"}, "there is no array 'y' of labels in it"),
        ({"x": _ROWS[:0]}, [_tensor("x", 4)], {}, "there is no row in it"),
        ({"x": _ROWS[:2]}, [_tensor("x", 4)], {}, "2 rows are too few"),
        (
            {"x": _ROWS[:3].repeat(200, 0)},
            [_tensor("x", 4)],
            {},
            "600 rows, 3 of them different, are too few",
        ),
        (
            {"x": _ROWS[:1].repeat(6, 0), "y": np.arange(6)},
            [_tensor("x", 4)],
            {"labels": "y"},
            "6 rows, 1 of them different, are",
        ),
        ({"x": _ROWS * 1e300}, [_tensor("x", 4)], {}, "row 0: 1e+300 is no float32"),
        ({"x": _ROWS + 0.5}, [_tensor("x", 4, dtype=np.int32)], {}, "row 0: 0.5 is no int32"),
        ({"x": _ROWS * 20}, [_tensor("x", 4, dtype=np.uint8)], {}, "row 3: 260.0 is no uint8"),
        ({"x": _ROWS.astype(str)}, [_tensor("x", 4)], {}, "row 0: '0.0' is no number"),
        ({"x": _ROWS}, [_tensor("x", 4, dtype=object)], {}, "texts are expected"),
        ({"x": _ROWS, "y": np.full(6, np.nan)}, [_tensor("x", 4)], {"labels": "y"}, "there is no label"),
    ],
)
def test_arrays_that_do_not_fit(
    arrays: dict[str, NDArray[Any]],
    inputs: list[TensorSpec],
    options: dict[str, str],
    complaint: str,
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)  # type: ignore[arg-type]  # its flag has a name of its own
    with pytest.raises(DataError, match=re.escape(complaint)):
        _load(tmp_path / "rows.npz", *inputs, **options)


@pytest.mark.parametrize(
    ("inputs", "options", "complaint"),
    [
        ([_tensor("input", 5)], {"labels": "y"}, "takes 5 columns, and there are 3 for it: 'age', 'town'"),
        ([_tensor("a", 2), _tensor("b", 2)], {}, "which columns do the inputs 'a', 'b' take"),
        ([_tensor("a", 2)], {"columns": {"a": ("agee", "y")}}, "there is no column 'agee'"),
        (
            [
                _tensor("age", 1),
                _tensor("height"),
                _tensor("town", dtype=object),
                _tensor("y"),
                _tensor("b", 2),
            ],
            {},
            "takes 2 columns, and there are 0",
        ),
        ([_tensor("a", 2)], {"labels": "z"}, "there is no column 'z' of labels"),
    ],
)
def test_tables_that_do_not_fit(
    inputs: list[TensorSpec], options: dict[str, Any], complaint: str, table: Path
) -> None:
    with pytest.raises(DataError, match=re.escape(complaint)):
        _load(table, *inputs, **options)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; expected a"):
        _load(tmp_path / "none.npz", _tensor("x", 4))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match="there is no picture in it"):
        _load(tmp_path / "folder.npz", _tensor("x", 3, 8, 8))
    with pytest.raises(DataError, match="--labels was given without the data"):
        _load(None, _tensor("x", 4), labels="y")
    np.save(tmp_path / "x.npy", _ROWS)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'y.npy'}: no such file: --labels names")):
        _load(tmp_path / "x.npy", _tensor("x", 4), labels=str(tmp_path / "y.npy"))


def test_without_data_rows_are_made_up() -> None:
    data = _load(None, _tensor("x", 4), _tensor("ids", 3, dtype=np.int64))
    assert data.is_made_up
    assert len(data.rows["x"]) == len(data.rows["ids"]) >= 32
    assert _load(None, _tensor("x", 4), _tensor("ids", 3, dtype=np.int64)).sha256 == data.sha256
    assert _load(None, _tensor("x", 4), _tensor("ids", 3, dtype=np.int64), seed=1).sha256 != data.sha256


def test_a_model_that_takes_no_made_up_rows_needs_data() -> None:
    def refuses(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        raise ExecutionError("only prayers")

    with pytest.raises(DataError, match="needs data: only prayers"):
        load(DataOptions(), [_tensor("x", 4)], refuses)


@given(rows=st.integers(4, 2000), most=st.integers(4, 500), seed=st.integers(0, 5))
def test_a_split_takes_each_row_once_and_the_same_each_time(rows: int, most: int, seed: int) -> None:
    numbers = np.arange(rows, dtype=np.float32)
    data = Data({"x": numbers}, numbers.astype(np.int64), False, "", {})
    parts = split(data, seed)
    again = split(data, seed)
    both = np.concatenate([parts.calibration["x"], parts.held_out["x"]])
    assert sorted(both) == list(range(rows))
    assert parts.labels is not None
    assert parts.labels.tolist() == parts.held_out["x"].tolist()
    assert len(parts.calibration["x"]) <= max(512, 1)
    assert parts.held_out["x"].tolist() == again.held_out["x"].tolist()


def test_copies_are_counted_once(tmp_path: Path) -> None:
    labels = np.arange(12) % 6
    labels[11] = 9
    np.savez(tmp_path / "rows.npz", x=np.concatenate([_ROWS, _ROWS]), y=labels)
    data = _load(tmp_path / "rows.npz", _tensor("x", 4), labels="y")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3, 4, 5, 9]
    assert data.notes == ("5 of 12 rows are copies of others, and were left out",)
    assert data.described == {"rows": 7, "seed": 0, "copies": 5}
    assert data.places[-1] == "row 11"


@given(seed=st.integers(0, 50))
def test_rows_that_differ_in_their_labels_alone_are_on_one_side(seed: int) -> None:
    rows = np.arange(40) // 2
    parts = split(Data({"x": rows}, np.arange(40), False, "", {}, tuple(map(str, range(40)))), seed)
    assert not set(parts.calibration["x"]) & set(parts.held_out["x"])
    assert [int(place) // 2 for place in parts.places] == parts.held_out["x"].tolist()


def test_scales_are_taken_from_rows_with_numbers() -> None:
    numbers = np.where(np.arange(100) % 2, np.arange(100.0), np.nan)
    numbers[::4] = np.inf
    parts = split(Data({"x": numbers + np.arange(100)}, None, False, "", {}), 0)
    assert np.isfinite(parts.calibration["x"]).all()
    held = split(Data({"x": np.array([np.nan, np.inf, -np.inf])}, None, False, "", {}), 0)
    assert len(held.calibration["x"]) == 1, "there are no others"


def test_of_many_rows_some_are_drawn_from_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("x\n" + "\n".join(map(str, range(5000))) + "\n")
    np.save(tmp_path / "many.npy", np.arange(5000))
    for source in (path, tmp_path / "many.npy"):
        drawn = _load(source, _tensor("x"), most_rows=100).rows["x"]
        assert len(set(drawn.tolist())) == 100
        assert drawn.tolist() == sorted(drawn.tolist())
        assert drawn.min() < 1000 < 4000 < drawn.max()
    missing = np.where(np.arange(5000) == 4321, np.nan, np.arange(5000))
    np.savez(tmp_path / "many.npz", x=missing, y=missing)
    with pytest.raises(DataError, match="row 4321: there is no label"):
        _load(tmp_path / "many.npz", _tensor("x"), labels="y", most_rows=4999)


def test_the_fingerprint_is_of_what_decides_the_rows(table: Path, tmp_path: Path) -> None:
    before = fingerprint(DataOptions(str(table)))
    assert fingerprint(DataOptions(str(table))) == before
    assert fingerprint(DataOptions(str(table), labels="y")) != before
    assert fingerprint(DataOptions(str(table), seed=1)) != before
    table.write_text(table.read_text().replace("north", "west"))
    assert fingerprint(DataOptions(str(table))) != before
    program = tmp_path / "rows.py"
    program.write_text("import numpy as np\ndef made():\n    return np.ones((6, 4))\n")
    ones = fingerprint(DataOptions(f"{program}:made"))
    program.write_text("import numpy as np\ndef made():\n    return np.zeros((6, 4))\n")
    assert fingerprint(DataOptions(f"{program}:made")) != ones


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra `data`")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"x": [[1.0, 2.0]] * 6, "town": list("abcdef"), "y": [0, 1, None, 1, 0, 1]})
    parquet.write_table(table, path)
    data = _load(path, _tensor("x", 2), _tensor("town", dtype=object))
    assert data.rows["x"].shape == (6, 2)
    assert data.rows["town"].tolist() == list("abcdef")
    with pytest.raises(DataError, match="row 2: there is no label"):
        _load(path, _tensor("x", 2), labels="y")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="no Parquet file"):
        _load(path, _tensor("x", 2))
