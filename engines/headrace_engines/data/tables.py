"""Rows out of tables: CSV and Parquet."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import files
from headrace_engines.data.options import Found
from headrace_engines.errors import DataError, UnsupportedModelError

if TYPE_CHECKING:
    from _csv import Reader

_DELIMITERS: Final = ",;\t|"

_Line = tuple[int, list[str]]


def read_csv(path: Path, most_rows: int, seed: int) -> Found:
    """Read a CSV file, whose first line names its columns unless all its cells are numbers.

    The delimiter is whichever of , ; | and tabulator the first line has most of. Of a table with more
    rows than `most_rows` that many are drawn, each with the same probability, and no more are held.
    """
    files.check(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(_DELIMITERS, key=first.count), strict=True)
            header = next(reader, None)
            if not header:
                raise DataError(f"{path}: the file is empty")
            named = not all(map(_is_number, header))
            names = [cell.strip() for cell in header] if named else [str(at) for at in range(len(header))]
            _check_names(names, path)
            whole = _whole(reader, names, path)
            lines = _drawn(whole if named else itertools.chain([(1, header)], whole), most_rows, seed)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no CSV in UTF-8: {error}") from error
    if not lines:
        raise DataError(f"{path}: there is no row below the names of the columns")
    columns = {name: _column([cells[at] for _, cells in lines]) for at, name in enumerate(names)}
    numbers = tuple(number for number, _ in lines)
    return Found(str(path), columns, is_table=True, has_names=named, lines=numbers)


def read_parquet(path: Path, most_rows: int, seed: int) -> Found:
    """Read a Parquet file; a column of lists of one length becomes an array of as many columns."""
    files.check(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UnsupportedModelError(
            f"{path}: reading Parquet needs pyarrow: in a clone of Headrace, pip install '.[data]'"
        ) from error
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: no Parquet file: {files.nature(path)}") from error
    if not table.num_rows:
        raise DataError(f"{path}: there is no row in it")
    kept: tuple[int, ...] = ()
    if table.num_rows > most_rows:
        chosen = np.sort(np.random.default_rng(seed).choice(table.num_rows, most_rows, replace=False))
        table, kept = table.take(chosen), tuple(chosen.tolist())
    _check_names(table.column_names, path)
    columns = {name: _arrow_column(table, name, path) for name in table.column_names}
    return Found(str(path), columns, is_table=True, numbers=kept)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"{path}: two columns have the name {min(twice)!r}")


def _whole(reader: Reader, names: Sequence[str], path: Path) -> Iterator[_Line]:
    """Yield each line that has cells, with its number; raises DataError for one with too few or too many."""
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(names):
            raise DataError(
                f"{path}: line {reader.line_num} has {len(cells)} cells, and there are {len(names)} columns"
            )
        yield reader.line_num, cells


def _drawn(lines: Iterator[_Line], most: int, seed: int) -> list[_Line]:
    """Return at most so many lines, in their order, each with the same probability (reservoir sampling)."""
    random = np.random.default_rng(seed)
    kept: list[_Line] = []
    for seen, line in enumerate(lines):
        if seen < most:
            kept.append(line)
        elif (place := int(random.integers(seen + 1))) < most:
            kept[place] = line
    return sorted(kept, key=lambda line: line[0])


def _column(cells: list[str]) -> NDArray[Any]:
    """Return numbers where every cell is one, or empty, which counts as missing; else the texts."""
    try:
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError:
        return np.array(cells, dtype=object)


def _arrow_column(table: Any, name: str, path: Path) -> NDArray[Any]:
    column = table.column(name)
    array: NDArray[Any] = column.to_numpy()
    if array.dtype == object and len(array) and isinstance(array[0], np.ndarray):
        sizes = {np.shape(item) for item in array}
        if len(sizes) > 1:
            raise DataError(f"{path}: column {name!r} holds lists of different lengths")
        return np.stack(list(array))
    return array
