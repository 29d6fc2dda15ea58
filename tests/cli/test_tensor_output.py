from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace_cli.tensor_output import as_json, as_text


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (np.array([[1.5]], np.float32), [[1.5]]),
        (np.array([1.5], ml_dtypes.bfloat16), [1.5]),
        (np.array([2**63], np.uint64), [2**63]),
        (np.array([True]), [True]),
        (np.array([b"a\xc3\xa4", b"\xff"], object), ["aä", "\\xff"]),
        (np.zeros((0, 3), np.int8), []),
        (np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float16), [[1.5, "NaN"], ["Infinity", "-Infinity"]]),
        (np.array([np.nan], ml_dtypes.bfloat16), ["NaN"]),
    ],
)
def test_values_survive_as_json(array: NDArray[np.generic], values: list[object]) -> None:
    assert json.loads(as_json({"y": array})) == {"y": values}


def test_people_see_name_type_and_shape() -> None:
    shown = as_text({"y": np.array([[0.25, 0.75]], np.float32), "label": np.array([b"cat"], object)})
    assert shown.splitlines() == ["y FP32 [1, 2]", "[[0.25 0.75]]", "label BYTES [1]", "['cat']"]
