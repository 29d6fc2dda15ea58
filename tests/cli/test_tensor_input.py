from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace import TensorMetadata
from headrace_cli.tensor_input import InputError, fit, made_up, parse, random, requests, split_rows, zeros
from headrace_proto.tensors import DTYPES

IMAGE = TensorMetadata("image", "FP32", (-1, 4))
MASK = TensorMetadata("mask", "UINT8", (-1, 2))
WORDS = TensorMetadata("words", "BYTES", (-1, 1))


@pytest.mark.parametrize(
    ("declared", "text", "expected"),
    [
        (IMAGE, "image=[1, 2, 3, 4]", np.array([1, 2, 3, 4], np.float32)),
        (IMAGE, "[[1, 2, 3, 4]]", np.array([[1, 2, 3, 4]], np.float32)),
        (MASK, "mask=[0, 255]", np.array([0, 255], np.uint8)),
        (MASK, "mask=[1.0, 2.0]", np.array([1, 2], np.uint8)),
        (TensorMetadata("flag", "BOOL", (2,)), "flag=[true, false]", np.array([True, False])),
        (TensorMetadata("half", "BF16", (1,)), "half=[0.5]", np.array([0.5], ml_dtypes.bfloat16)),
        (TensorMetadata("big", "INT64", (1,)), "big=[9007199254740993]", np.array([9007199254740993])),
        (WORDS, 'words=["a=b"]', np.array(["a=b"], object)),
        (WORDS, '["x=y"]', np.array(["x=y"], object)),
    ],
)
def test_literals_take_the_declared_dtype(declared: TensorMetadata, text: str, expected: Any) -> None:
    (array,) = parse([text], [declared]).values()
    assert array.dtype == expected.dtype
    assert np.array_equal(array, expected)


@pytest.mark.parametrize(
    ("declared", "texts", "told"),
    [
        ([IMAGE], [], "no value for image FP32 [-1, 4]"),
        ([IMAGE], ["picture=[1]"], "no input 'picture'; it has: image FP32 [-1, 4]"),
        ([IMAGE], ["image=[1]", "image=[2]"], "'image' came twice"),
        ([IMAGE], ["image=[[1, 2], [3]]"], "rows differ in length"),
        ([IMAGE], ["image=rows.npy"], "files are named with @"),
        ([IMAGE], ["image=" + "[" * 100_000], "'image': the value is nested too deeply"),
        ([IMAGE], ['image=["a"]'], "is FP32; BYTES came"),
        ([IMAGE], ["image=[null]"], "is FP32; something that is no tensor came"),
        ([], ["image=[1]"], "the model takes no inputs"),
        ([IMAGE], ["image=@nowhere.npy"], "cannot read nowhere.npy: No such file or directory"),
        ([MASK], ["mask=[256, 0]"], "is UINT8; some values do not fit"),
        ([MASK], ["mask=[-1, 0]"], "is UINT8; some values do not fit"),
        ([MASK], ["mask=[0.5, 0]"], "is UINT8; some values do not fit"),
        ([WORDS], ["words=[1]"], "takes strings; 1 came"),
        ([IMAGE, MASK], ["[1]"], "is not NAME=VALUE, and the model has several inputs"),
        ([TensorMetadata("x", "FP8", (1,))], ["x=[1]"], "datatype 'FP8', which is not known here"),
    ],
)
def test_what_does_not_fit_is_named(declared: list[TensorMetadata], texts: list[str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(texts, declared)
    assert told in str(caught.value)


def test_files_hold_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "rows.npy", np.arange(8.0).reshape(2, 4))
    (tmp_path / "rows.json").write_text(json.dumps([[1, 2, 3, 4]]))
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    monkeypatch.setattr("sys.stdin", io.StringIO("[4, 3, 2, 1]"))
    assert parse([f"@{tmp_path}/rows.npy"], [IMAGE])["image"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert parse([f"image=@{tmp_path}/rows.json"], [IMAGE])["image"].tolist() == [[1, 2, 3, 4]]
    assert parse(["image=@-"], [IMAGE])["image"].tolist() == [4, 3, 2, 1]
    for name in ("bad", "pickled"):
        with pytest.raises(InputError, match="not a NumPy file that can be read"):
            parse([f"@{tmp_path}/{name}.npy"], [IMAGE])


@given(hnp.array_shapes(min_dims=1, max_dims=3), st.booleans())
def test_one_row_is_given_its_batch_axis(shape: tuple[int, ...], with_batch: bool) -> None:
    declared = TensorMetadata("x", "FP32", (-1, *shape))
    came = np.zeros((3, *shape) if with_batch else shape, np.float32)
    assert fit({"x": came}, [declared])["x"].shape == (3 if with_batch else 1, *shape)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 2, 4), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"input image FP32 \[-1, 4\] does not take shape"):
        fit({"image": np.zeros(shape, np.float32)}, [IMAGE])


def single(name: str) -> TensorMetadata:
    return TensorMetadata(name, "INT64", (-1,))


def test_rows_are_cut_out_of_all_inputs_alike() -> None:
    rows = split_rows(
        {"a": np.arange(4).reshape(2, 2), "b": np.array([5, 6])},
        [TensorMetadata("a", "INT64", (-1, 2)), single("b")],
    )
    assert [(row["a"].tolist(), int(row["b"])) for row in rows] == [([0, 1], 5), ([2, 3], 6)]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, "a has 2, b has 3"),
        ({"a": np.zeros((0, 1)), "b": np.zeros((0, 1))}, "there are no rows"),
    ],
)
def test_rows_that_do_not_match_are_refused(arrays: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        split_rows(arrays, [single("a"), single("b")])


@pytest.mark.parametrize(
    ("declared", "text", "expected"),
    [
        (TensorMetadata("w", "BYTES", (-1,)), '["a", "b"]', [["a"], ["b"]]),
        (TensorMetadata("w", "BYTES", (-1, 1)), '[["a"], ["b"]]', [[["a"]], [["b"]]]),
        (IMAGE, "[1, 2, 3, 4]", [[[1, 2, 3, 4]]]),
        (TensorMetadata("fixed", "INT64", (2,)), "[1, 2]", [[1, 2]]),
        (TensorMetadata("fixed", "INT64", (2,)), "[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        (TensorMetadata("value", "INT64", ()), "[1, 2]", [1, 2]),
    ],
)
def test_each_row_is_a_request(declared: TensorMetadata, text: str, expected: list[object]) -> None:
    rows = requests([text], None, [declared], 9)
    assert [row[declared.name].tolist() for row in rows] == expected


@pytest.mark.parametrize("declared", [[IMAGE], [TensorMetadata("fixed", "FP32", (2, 3))]])
def test_requests_are_made_up(declared: list[TensorMetadata]) -> None:
    rows = requests([], "random", declared, 3)
    assert [row[declared[0].name].shape for row in rows] == [
        (abs(declared[0].shape[0]), declared[0].shape[1])
    ] * 3


def test_a_model_without_inputs_is_asked_as_often_as_told() -> None:
    assert requests([], None, [], 3) == [{}, {}, {}]


@given(st.sampled_from(sorted(DTYPES)), st.integers(1, 4), st.booleans())
def test_made_up_inputs_fit_the_model(datatype: str, rows: int, is_random: bool) -> None:
    declared = TensorMetadata("x", datatype, (-1, 3, -1))
    arrays = made_up([declared], rows, random if is_random else zeros)
    assert arrays["x"].shape == (rows, 3, 1)
    assert arrays["x"].dtype == DTYPES[datatype]
    assert fit(arrays, [declared])["x"] is arrays["x"]
