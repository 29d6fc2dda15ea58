"""What a person says about their data, and what comes of it: facts that cost nothing to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from headrace_engines.documents import Scalar
from headrace_engines.rows import Rows


@dataclass(frozen=True, slots=True)
class Pixels:
    """How a picture becomes the numbers that a model takes: `(pixel * scale - mean) / std`.

    `mean` and `std` have one value, or one for each channel. `resize` is the length in pixels that the
    shorter side is brought to before the middle is cut out; 0 for just as much as the model needs.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: int = 0


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where rows come from.

    `source` is a .npz, .npy, .csv or .parquet file, a folder of pictures, or `file.py:function` or
    `package.module:function`; None for made-up rows. `labels` names the column, or the array, of what
    is right, or a .npy file beside. `columns` tells which columns of a table, or which array, an input
    takes where their names do not. `most_rows` are taken at most, chosen by `seed`.
    """

    source: str | None = None
    labels: str | None = None
    seed: int = 0
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pixels: Pixels = Pixels()
    most_rows: int = 5000


@dataclass(frozen=True, slots=True)
class Found:
    """Arrays as a source holds them, by names of its own; axis 0 of each counts rows.

    `name` is what complaints call the source. The arrays of a table are its columns, which somebody named
    if `has_names`, and `lines` are the numbers of its rows in the file, where it has such; `numbers` are
    those of rows that were drawn from more.
    """

    name: str
    arrays: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    is_table: bool = False
    has_names: bool = True
    lines: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()

    def place(self, at: int) -> str:
        """Say where a row stands in the source, for a person who looks for it there."""
        if self.lines:
            return f"line {self.lines[at]}"
        return f"row {self.numbers[at] if self.numbers else at}"


@dataclass(frozen=True, slots=True)
class Data:
    """Rows that fit a model's inputs.

    `labels` are one value a row, or several: numbers, or texts in an object array. `sha256` is that of
    the arrays; `described` goes into the manifest. `places` say where each row stands in its source, and
    `notes` what was left out of that.
    """

    rows: Rows
    labels: NDArray[Any] | None
    is_made_up: bool
    sha256: str
    described: Mapping[str, Scalar]
    places: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Split:
    """Rows for choosing scales, and others for judging; they share none.

    `labels` are of `held_out`, as are `places`, which say where each of these rows stands in its source.
    """

    calibration: Rows
    held_out: Rows
    labels: NDArray[Any] | None
    places: tuple[str, ...] = ()
