"""From what a person said about their data to rows that fit a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace_engines.data import (
    arrays,
    columns,
    copies,
    fitting,
    functions,
    made_up,
    missing,
    pictures,
    tables,
)
from headrace_engines.data.options import Data, DataOptions, Found, Split
from headrace_engines.documents import Scalar
from headrace_engines.errors import DataError
from headrace_engines.rows import Rows, data_hash
from headrace_engines.samples import Execute
from headrace_engines.spec import TensorSpec

_CALIBRATION_SHARE = 0.3
_MOST_CALIBRATION_ROWS = 512
"""More of them move no scale any more, and judging is what rows are short for."""
_FEWEST_ROWS = 4
_LABELS = "column, an array of the data, or a .npy file beside them"
_KINDS = "a .npz, .npy, .csv, .tsv or .parquet file, a folder of pictures, or file.py:function"


def load(
    options: DataOptions,
    inputs: Sequence[TensorSpec],
    execute: Execute,
    known: Sequence[str] = (),
    typical: NDArray[np.float32] | None = None,
) -> Data:
    """Return the rows that `options` tell of; made-up ones, which `execute` takes, without a source.

    `known` are the names of the columns that the model's one matrix was fitted on, where its source tells;
    made-up rows are near the `typical` ones, [rows, features], where it tells of such. Raises DataError
    naming file, column and row if they cannot be read or do not fit the inputs.
    """
    if options.source is None:
        for flag, given in (("labels", options.labels), ("columns", options.columns)):
            if given:
                raise DataError(f"--{flag} was given without the data that it is about: --data gives them")
        rows = made_up.rows(inputs, execute, options.seed, typical)
        described: Mapping[str, Scalar] = {"source": "made up", "seed": options.seed}
        return Data(rows, None, True, data_hash(*rows.values()), described)
    found = _limited(_labelled(_found(options, inputs), options.labels), options)
    chosen = columns.chosen(found, inputs, options.columns, known)
    return _apart(found, fitting.fitted(found, inputs, chosen), options.seed, _left_out(found, chosen))


def _apart(found: Found, rows: Rows, seed: int, notes: tuple[str, ...]) -> Data:
    """Return the rows that differ, once each."""
    labels = fitting.fitted_labels(found)
    count = len(next(iter(rows.values())))
    held = (*rows.values(), *(() if labels is None else (labels,)))
    kept = copies.firsts(held)
    different = len(copies.firsts(tuple(rows.values())))
    if different < _FEWEST_ROWS:
        told = f"{count} rows" if different == count else f"{count} rows, {different} of them different,"
        raise DataError(f"{found.name}: {told} are too few to calibrate and to judge a model with")
    described: dict[str, Scalar] = {"rows": len(kept), "seed": seed}
    if alike := count - len(kept):
        described["copies"] = alike
        notes = (*notes, f"{alike} of {count} rows are copies of others, and were left out")
    return Data(
        rows=_taken(rows, kept),
        labels=None if labels is None else labels[kept],
        is_made_up=False,
        sha256=data_hash(*(array[kept] for array in held)),
        described=described,
        places=tuple(found.place(int(at)) for at in kept),
        notes=notes,
    )


def _left_out(found: Found, chosen: columns.Chosen) -> tuple[str, ...]:
    taken = {name for names in chosen.values() for name in names}
    left = [name for name in found.arrays if name not in taken]
    if not left or not found.is_table:
        return ()
    told = columns.listed(left)
    return (f"{len(left)} columns of the data were left out, since the model does not take them: {told}",)


def split(data: Data, seed: int) -> Split:
    """Divide rows at random, the same way each time, into those for calibration and those for judging.

    Rows that differ in their labels alone are on the same side. No scale is taken from rows with NaN or
    infinite numbers while there are others.
    """
    arrays = tuple(data.rows.values())
    kinds = np.arange(len(arrays[0])) if data.is_made_up else copies.kinds(arrays)
    count = int(kinds.max()) + 1
    held = min(max(1, int(count * _CALIBRATION_SHARE)), _MOST_CALIBRATION_ROWS)
    order = np.random.default_rng(seed).permutation(count)
    whole = order[np.isin(order, kinds[missing.is_whole(data.rows)])]
    calibrates = np.isin(kinds, (whole if len(whole) else order)[:held])
    first, second = np.flatnonzero(calibrates), np.flatnonzero(~calibrates)
    return Split(
        calibration=_taken(data.rows, first),
        held_out=_taken(data.rows, second),
        labels=None if data.labels is None else data.labels[second],
        places=tuple(data.places[at] for at in second) if data.places else (),
    )


def fingerprint(options: DataOptions) -> str:
    """Return the SHA-256 of all that decides the rows, without a model; a function is called for it.

    Raises DataError if there is no such source.
    """
    digest = hashlib.sha256(repr(replace(options, columns=dict(sorted(options.columns.items())))).encode())
    for source in (options.source, options.labels):
        if source is None:
            continue
        path = Path(source)
        if path.is_dir():
            for entry in sorted(path.rglob("*")):
                if entry.is_file():
                    digest.update(f"{entry.relative_to(path)}\0".encode(errors="surrogateescape"))
                    digest.update(_file_hash(entry))
        elif path.is_file():
            digest.update(_file_hash(path))
        elif functions.is_function(source):
            found = functions.read(source)
            digest.update("\0".join(found.arrays).encode())
            held = (*found.arrays.values(), *(() if found.labels is None else (found.labels,)))
            digest.update(data_hash(*held).encode())
    return digest.hexdigest()


def _found(options: DataOptions, inputs: Sequence[TensorSpec]) -> Found:
    source = options.source or ""
    path = Path(source)
    if functions.is_function(source):
        return functions.read(source)
    if path.is_dir():
        if len(inputs) != 1:
            raise DataError(f"{path}: pictures are for a model of one input, and this one has {len(inputs)}")
        return pictures.read(path, inputs[0], options.pixels, options.most_rows, options.seed)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {_KINDS}")
    match path.suffix.lower():
        case ".npz" | ".npy":
            return arrays.read(path)
        case ".csv" | ".tsv" | ".txt":
            return tables.read_csv(path, options.most_rows, options.seed)
        case ".parquet" | ".pq":
            return tables.read_parquet(path, options.most_rows, options.seed)
    raise DataError(f"{path}: no data that can be read; expected {_KINDS}")


def _labelled(found: Found, labels: str | None) -> Found:
    """Return the source with its labels apart: an array or a column of it, or a .npy file beside it."""
    if labels is None:
        return found
    arrays_left = dict(found.arrays)
    if labels in arrays_left and len(arrays_left) > 1:
        return replace(found, labels=arrays_left.pop(labels), arrays=arrays_left)
    if not labels.endswith(".npy"):
        kind = "column" if found.is_table else "array"
        held = columns.listed(arrays_left) if any(arrays_left) else "one array without a name"
        besides = "" if found.labels is None else "; its own labels are used where --labels is left away"
        raise DataError(
            f"{found.name}: there is no {kind} {labels!r} of labels in it; it has {held}{besides}"
        )
    if not Path(labels).exists():
        raise DataError(f"{labels}: no such file: --labels names a {_LABELS}")
    return replace(found, labels=arrays.read(Path(labels)).arrays[""])


def _limited(found: Found, options: DataOptions) -> Found:
    """Draw as many rows as are wanted from a source that holds more, and is read whole."""
    count = len(next(iter(found.arrays.values())))
    even = all(len(array) == count for array in found.arrays.values())
    if count <= options.most_rows or not even:  # uneven ones are refused where they are named
        return found
    random = np.random.default_rng(options.seed)
    kept = np.sort(random.choice(count, options.most_rows, replace=False))
    labels = found.labels if found.labels is None or len(found.labels) != count else found.labels[kept]
    return replace(found, arrays=_taken(found.arrays, kept), labels=labels, numbers=tuple(kept.tolist()))


def _taken(rows: Rows, kept: NDArray[np.int64]) -> Rows:
    return {name: array[kept] for name, array in rows.items()}


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
