"""Outputs of a model as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_proto.tensors import datatype_of


def as_lists(outputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return nested lists that JSON can hold; bytes that are no UTF-8 are escaped.

    What JSON has no number for is the string that Protocol Buffers write: NaN, Infinity, -Infinity.
    """
    return {name: _finite(_plain(array)).tolist() for name, array in outputs.items()}


def as_json(outputs: Mapping[str, NDArray[Any]]) -> str:
    """Return a JSON object of nested lists on one line."""
    return json.dumps(as_lists(outputs), allow_nan=False)


def as_text(outputs: Mapping[str, NDArray[Any]]) -> str:
    """Return each output's name, datatype, shape and values, long ones shortened."""
    return "\n".join(
        f"{name} {datatype_of(array.dtype)} [{', '.join(map(str, array.shape))}]\n"
        + np.array2string(_plain(array), precision=4, suppress_small=True, max_line_width=110)
        for name, array in outputs.items()
    )


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array
    told = array.astype(object)
    told[np.isnan(array)] = "NaN"
    told[np.isposinf(array)] = "Infinity"
    told[np.isneginf(array)] = "-Infinity"
    return told


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same values in a dtype that NumPy itself knows, strings as text."""
    if array.dtype == np.dtype(object):
        texts = [
            item.decode(errors="backslashreplace") if isinstance(item, bytes) else item for item in array.flat
        ]
        return np.array(texts, dtype=object).reshape(array.shape)
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float64)
