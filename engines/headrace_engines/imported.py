"""A trained model's file as a source: opened in its own framework, with rows from a person's data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import files, independence, local_modules
from headrace_engines.data import missing
from headrace_engines.data.load import fingerprint, load, split
from headrace_engines.data.options import Data, DataOptions, Split
from headrace_engines.documents import Scalar
from headrace_engines.errors import DataError, InputError, ModelFileError, UnsupportedModelError
from headrace_engines.folding import Fold, fold_in
from headrace_engines.importers.formats import Format, Kind, detect
from headrace_engines.importers.importer import COLUMNS, ImportOptions, typical_path
from headrace_engines.manifest import Recipe
from headrace_engines.printable import printable
from headrace_engines.progress import Stages
from headrace_engines.rows import Rows, data_hash
from headrace_engines.source import Prepared, Source

_MODEL: Final = "model.onnx"
_STANDARD: Final = "model.standard.onnx"
"""What an importer leaves beside a model of other operators than ONNX's own, where it can."""
_ALONE_ROWS: Final = 64
_STANDARD_DOMAINS: Final = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What may be told about a source that is a file; `is_trusted` allows code in it to be executed."""

    importing: ImportOptions = field(default_factory=ImportOptions)
    data: DataOptions = field(default_factory=DataOptions)
    fold: Fold | None = None
    is_trusted: bool = False


def source(path: Path, options: FileOptions) -> Source:
    """Return a file, or a folder, as a source; it is looked at and not opened.

    Raises ModelFileError or UnsupportedModelError if it is no model that is read, DataError if there are
    no such data.
    """
    found = detect(path)
    recipe = Recipe(found.label, _settings(path, found, options))

    def prepare(folder: Path, stages: Stages) -> Prepared:
        return _prepared(path, found, options, folder, stages)

    def held_out(model: Path, facts: Mapping[str, Scalar]) -> Rows:
        rows, _ = _data(model, options.data, _columns(facts))
        return split(rows, options.data.seed).held_out

    def is_same(facts: Mapping[str, Scalar]) -> bool:
        return local_modules.are_same(facts, options.importing.factory)

    return Source(recipe, found.tools, prepare, held_out, found.extra, fingerprint(options.data), is_same)


def _settings(path: Path, found: Format, options: FileOptions) -> dict[str, Scalar]:
    """Return all that decides the ONNX, but for the versions of the tools."""
    importing, data = options.importing, options.data
    settings: dict[str, Scalar] = {
        "kind": found.kind.value,
        "sha256": content_hash(path),
        "opset": importing.opset,
        "seed": data.seed,
    }
    for name, dims in sorted(importing.input_shapes.items()):
        settings[f"input.{name}.dims"] = ",".join(map(str, dims))
    for name, dtype in sorted(importing.input_dtypes.items()):
        settings[f"input.{name}.dtype"] = dtype
    if importing.factory:
        settings["factory"] = importing.factory.rpartition("/")[2]
        program = Path(importing.factory.rpartition(":")[0])
        if program.is_file():
            settings["factory_sha256"] = content_hash(program)
    if options.fold:
        pixels = data.pixels
        settings["pixels.scale"] = pixels.scale
        settings["pixels.mean"] = ",".join(map(str, pixels.mean))
        settings["pixels.std"] = ",".join(map(str, pixels.std))
        settings["pixels.channels_last"] = options.fold.channels_last
    if found.kind is Kind.ONNX and path.is_file():
        settings |= {f"weights.{name}": content_hash(file) for name, file in _weights_beside(path)}
    return settings


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names.

    Raises ModelFileError if something of it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if not path.is_dir():
            files.check(path)
            return _file_digest(path).hex()
        for entry in sorted(path.rglob("*")):
            if entry.is_file():
                name = str(entry.relative_to(path)).encode(errors="surrogateescape")
                digest.update(len(name).to_bytes(8, "little") + name + _file_digest(entry))
    except OSError as error:
        raise files.unreadable(path, error) from error
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _weights_beside(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that an ONNX model keeps weights in, as it names them, as far as they are there."""
    import onnx
    from google.protobuf.message import DecodeError

    from headrace_engines.importers import model_file

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelFileError(f"{path.name}: it cannot be parsed: {files.nature(path)}") from error
    for name in model_file.weight_files(model):
        file = path.parent / name
        if file.is_file():
            yield name, file


def _prepared(path: Path, found: Format, options: FileOptions, folder: Path, stages: Stages) -> Prepared:
    """Open the source in its framework, convert it, and ask it for answers to the held-out rows."""
    from headrace_engines.importers.session import import_session

    data, fold = options.data, options.fold
    model, standard = folder / _MODEL, folder / _STANDARD
    with ExitStack() as stack:
        with stages(f"opening {printable(path.name)} ({found.label})", 0.0):
            opened = import_session(
                path, found, options.importing, is_trusted=options.is_trusted, within=folder.parent
            )
            session = stack.enter_context(opened)
        with stages("converting it to ONNX", 0.1):
            session.convert(model)
            as_sent = fold_in(model, data.pixels, fold) if fold else _unchanged
        with stages("reading the data", 0.2):
            rows, rows_apart = _data(model, data, _columns(session.facts))
            parts = split(rows, data.seed)
        with stages("asking the source for its answers", 0.3):
            sent = as_sent(parts.held_out)
            try:
                expected = _expected(session.answers, sent, rows_apart=rows_apart)
            except InputError as error:
                raise _unanswered(sent, parts.places, error) from error
        return Prepared(
            model=model,
            calibration=parts.calibration,
            held_out=parts.held_out,
            labels=parts.labels,
            expected=expected,
            data=_hashes(rows, parts),
            facts={**_facts(session.facts, rows), **session.modules()},
            made_up=rows.is_made_up,
            rows_apart=rows_apart,
            standard=standard if standard.exists() else None,
            cpu_only=_foreign_operators(standard if standard.exists() else model),
            places=parts.places,
            notes=rows.notes,
        )


def _columns(facts: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return the names of the columns that the source was fitted on, where it tells."""
    return tuple(map(str, json.loads(str(facts.get(COLUMNS, "[]")))))


def _unanswered(rows: Rows, places: tuple[str, ...], error: InputError) -> DataError:
    """Say which row the source does not answer, where that shows."""
    place = missing.place(rows, places)
    if not place:
        return DataError(str(error))
    return DataError(f"{place}: put a number there, or leave the row out, since {error}")


def _unchanged(rows: Rows) -> Rows:
    return rows


def _facts(facts: Mapping[str, Scalar], rows: Data) -> dict[str, Scalar]:
    return {**facts, **{f"data.{name}": value for name, value in rows.described.items()}}


def _hashes(rows: Data, parts: Split) -> dict[str, str]:
    labels = () if parts.labels is None else (parts.labels,)
    return {
        "all": rows.sha256,
        "calibration": data_hash(*parts.calibration.values()),
        "held_out": data_hash(*parts.held_out.values(), *labels),
    }


def _expected(
    answers: Callable[[Rows], tuple[NDArray[Any], ...]], rows: Rows, *, rows_apart: bool
) -> tuple[NDArray[Any], ...]:
    """Ask the source; one row at a time, and only some, where a batch would change what it answers."""
    if rows_apart:
        return answers(rows)
    count = min(_ALONE_ROWS, len(next(iter(rows.values()))))
    single = [answers({name: array[row : row + 1] for name, array in rows.items()}) for row in range(count)]
    return tuple(np.concatenate(parts) for parts in zip(*single, strict=True))


def _typical(model: Path) -> NDArray[np.float32] | None:
    """Return the rows that the model told of, and drop their file: what lies beside a model is published."""
    path = typical_path(model)
    if not path.exists():
        return None
    rows: NDArray[np.float32] = np.load(path, allow_pickle=False)
    path.unlink()
    return rows


def _data(model: Path, options: DataOptions, known: tuple[str, ...]) -> tuple[Data, bool]:
    """Return the rows, and whether they share a batch without changing each other's answers.

    `known` are the names of the columns that the source was fitted on, where it tells.
    """
    from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

    with closing(OnnxRuntimeEngine(model)) as engine:
        if not engine.spec.has_batch_axis:
            raise UnsupportedModelError(
                f"{model.name}: axis 0 of its inputs and outputs does not count rows, so that nothing can be "
                "judged row by row; it can be served as it is"
            )
        if any(tensor.dtype.kind == "O" for tensor in engine.spec.inputs) and options.source is None:
            raise DataError("texts cannot be made up: give rows with --data")
        rows = load(options, engine.spec.inputs, engine.run, known, _typical(model))
        return rows, independence.check(engine).independent


def _foreign_operators(model: Path) -> tuple[str, ...]:
    """Return the operators that are not of ONNX's own domain, which TensorRT does not know."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return tuple(sorted({node.op_type for node in graph.node if node.domain not in _STANDARD_DOMAINS}))
