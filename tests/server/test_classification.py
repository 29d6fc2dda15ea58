"""The largest values of outputs as text: what is written, and in which order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace_server.transport.classification import CLASSIFIABLE, TooManyClasses, top_classes


def told(values: Any, count: int, labels: tuple[str, ...] = (), dtype: str = "<f4") -> list[Any]:
    array = np.array(values, dtype)
    return list(top_classes(array, count, labels, has_batch_axis=array.ndim > 1).tolist())


@pytest.mark.parametrize(
    ("values", "count", "labels", "dtype", "expected"),
    [
        pytest.param([0.1, 0.5, 0.2], 1, (), "<f4", ["0.500000:1"], id="the largest"),
        pytest.param([0.1, 0.5, 0.2], 2, (), "<f8", ["0.500000:1", "0.200000:2"], id="largest first"),
        pytest.param([0.1, 0.5], 9, (), "<f4", ["0.500000:1", "0.100000:0"], id="no more than there are"),
        pytest.param([1, 3, 3, 3], 3, (), "<f4", ["3.000000:1", "3.000000:2", "3.000000:3"], id="equal"),
        pytest.param([1, 2], 2, ("ash", "elm"), "<f4", ["2.000000:1:elm", "1.000000:0:ash"], id="labels"),
        pytest.param([1, 2, 3], 3, ("ash", ""), "<i4", ["3:2", "2:1", "1:0:ash"], id="some labels"),
        pytest.param([-3, -1, -2], 2, (), "<i1", ["-1:1", "-2:2"], id="negative"),
        pytest.param([2**64 - 1, 0], 1, (), "<u8", [f"{2**64 - 1}:0"], id="the widest number"),
        pytest.param([-(2**63), 2**63 - 1], 2, (), "<i8", [f"{2**63 - 1}:1", f"-{2**63}:0"], id="ends"),
        pytest.param(
            [math.nan, -math.inf, 1, math.inf],
            4,
            (),
            "<f4",
            ["inf:3", "1.000000:2", "nan:0", "-inf:1"],
            id="what is no number last",
        ),
        pytest.param([1e-9], 1, (), "<f8", ["0.000000:0"], id="six decimals"),
        pytest.param([[1, 2], [4, 3]], 1, (), "<f4", [["2.000000:1"], ["4.000000:0"]], id="rows"),
        pytest.param(
            [[[1, 2], [4, 3]]], 2, (), "<i4", [["4:2", "3:3"]], id="a row of several axes is one row"
        ),
        pytest.param([[], []], 3, (), "<f4", [[], []], id="rows of nothing"),
        pytest.param(7, 3, (), "<i4", ["7:0"], id="a scalar"),
    ],
)
def test_what_is_told(
    values: Any, count: int, labels: tuple[str, ...], dtype: str, expected: list[Any]
) -> None:
    assert told(values, count, labels, dtype) == expected


@given(
    st.sampled_from(sorted(CLASSIFIABLE, key=str)).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 4), st.integers(1, 9)))
    ),
    st.one_of(st.integers(1, 12), st.just(2**63 - 1)),
)
def test_any_rows_are_told_in_their_order(rows: np.ndarray[Any, Any], count: int) -> None:
    classes = top_classes(rows, count, (), has_batch_axis=True)
    assert classes.shape == (len(rows), min(count, rows.shape[1]))
    for row, texts in zip(rows, classes.tolist(), strict=True):
        places = [int(text.split(":")[1]) for text in texts]
        numbers = [-math.inf if value != value else value for value in row.tolist()]
        in_order = sorted(range(len(numbers)), key=lambda place: (-numbers[place], place))
        assert places == in_order[:count]


def test_invariant_4_an_answer_has_a_bounded_number_of_classes() -> None:
    rows = np.zeros((4, 300_000), np.float32)
    with pytest.raises(
        TooManyClasses, match="300000 classes of 4 rows were asked for, an answer tells at most 1000000"
    ):
        top_classes(rows, 2**62, (), has_batch_axis=True)
    assert top_classes(rows, 5, (), has_batch_axis=True).shape == (4, 5)
