"""Numbers that are none: NaN, which tables have where a cell is empty, and infinity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.rows import Rows
from headrace_engines.samples import is_floating


def is_whole(rows: Rows) -> NDArray[np.bool_]:
    """Tell of each row whether all its numbers are some."""
    return np.asarray(np.logical_and.reduce([finite(array) for array in rows.values()]))


def finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell of each row of one array whether all its numbers are some."""
    if not is_floating(array.dtype):
        return np.ones(len(array), bool)
    return np.asarray(np.isfinite(array.reshape(len(array), -1)).all(axis=1))


def place(rows: Rows, places: tuple[str, ...]) -> str:
    """Name the first row, and its input, that has no number somewhere; "" if there is none.

    `places` say where each row stands in its source.
    """
    for name, array in rows.items():
        wrong = np.flatnonzero(~finite(array))
        if wrong.size:
            at = int(wrong[0])
            value = "NaN" if np.isnan(array[at].astype(np.float64)).any() else "infinity"
            more = f", as have {wrong.size - 1} more rows" if wrong.size > 1 else ""
            return f"{row(places, at)} of input {name!r} has {value}{more}"
    return ""


def row(places: tuple[str, ...], at: int) -> str:
    """Say which of the held-out rows one is."""
    return places[at] if places else f"held-out row {at}"
