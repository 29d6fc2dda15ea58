"""Writes a trained model, or one that was built, as a file that other programs read: ONNX or PMML."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from headrace_engines import folders, manifest
from headrace_engines.candidates import MODEL
from headrace_engines.errors import FolderError, ModelFileError, UnsupportedModelError
from headrace_engines.importers.formats import detect
from headrace_engines.importers.importer import ImportOptions, standard_path, typical_path
from headrace_engines.importers.session import import_session

ONNX: Final = ".onnx"
PMML: Final = ".pmml"


def export(source: Path, to: Path, options: ImportOptions) -> tuple[Path, ...]:
    """Write the model as the ending of `to` says, and return the files, of which it is the first.

    The source is a file that can be built, or the folder of a version or a model that was built, of which
    the newest version is taken; of these the FP32 model is written. Weights of more than 2 GB lie in
    a file beside `to`, which is written whole or not at all.

    Raises ValueError for another ending, FolderError if `to` exists or cannot be written, and what opening
    and converting the source raise.
    """
    if to.suffix not in (ONNX, PMML):
        raise ValueError(f"{to.name}: its ending tells what is written: {ONNX} or {PMML}")
    _check_free(to)
    built = _version_folder(source)
    if built and to.suffix == PMML:
        raise UnsupportedModelError(
            f"{source}: what was built is ONNX; name the trained model's own file for PMML"
        )
    with (
        folders.writing(to.parent),
        tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as folder,
    ):
        staging = Path(folder) / to.name
        if built:
            _copy(built, staging)
        else:
            _convert(source, staging, options)
        for other in (standard_path(staging), typical_path(staging)):
            other.unlink(missing_ok=True)
        made = sorted(Path(folder).iterdir(), key=lambda file: file.name != to.name)
        places = tuple(to.parent / file.name for file in made)
        for place in places:
            _check_free(place)
        for file, place in zip(made, places, strict=True):
            file.rename(place)
        return places


def _check_free(place: Path) -> None:
    if os.path.lexists(place):
        raise FolderError(f"{place} exists already: remove it, or name another file")


def _convert(source: Path, into: Path, options: ImportOptions) -> None:
    with import_session(source, detect(source), options, is_trusted=options.is_trusted) as session:
        if into.suffix == PMML:
            session.write_pmml(into)
        else:
            session.convert(into)


def _version_folder(source: Path) -> Path | None:
    """Return the folder of a version that was built; None for all that is to be converted."""
    if not source.is_dir():
        return None
    versions = [entry for entry in source.iterdir() if entry.name.isascii() and entry.name.isdecimal()]
    newest = max(versions, key=lambda entry: int(entry.name), default=None)
    found = (folder for folder in (source, newest) if folder and (folder / manifest.FILE_NAME).is_file())
    return next(found, None)


def _copy(version: Path, into: Path) -> None:
    """Copy the FP32 model of a version, which must be the one that its manifest describes."""
    described = manifest.read(version)
    artefacts = described.artefacts if described else ()
    artefact = next((each for each in artefacts if each.file == MODEL), None)
    if artefact is None:
        raise ModelFileError(f"{version}: its manifest has no {MODEL}")
    manifest.verify(version, artefact)
    from headrace_engines.importers import exported, model_file  # libraries that a refusal does without

    if any(file.name != MODEL and file.name.startswith(MODEL) for file in version.iterdir()):
        exported.save(model_file.read(version / MODEL), into)
    else:
        shutil.copyfile(version / MODEL, into)
