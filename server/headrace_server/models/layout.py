"""What a model repository holds: `<repository>/<model>/<version>/`, read without opening any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NOT_BUILT = {
    "config.pbtxt": "config.pbtxt is not supported: everything is derived from the model; remove the file",
}


class RepositoryError(Exception):
    """The repository cannot be served at all; the text says what was looked for, and where."""


@dataclass(frozen=True, slots=True)
class Found:
    """The version of a model that should be served; `problem` says why it cannot be, "" if it can."""

    name: str
    version: str
    folder: Path
    problem: str = ""


def scan(repository: Path) -> list[Found]:
    """Return the newest version of each model, ordered by name. Raises RepositoryError."""
    if not repository.is_dir():
        raise RepositoryError(f"there is no model repository at {repository}: no such folder")
    try:
        folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    except OSError as error:
        raise RepositoryError(
            f"the model repository {repository} cannot be read: {error.strerror}"
        ) from error
    models = [_newest(folder) for folder in folders if not folder.name.startswith(".")]
    if not models:
        raise RepositoryError(
            f"the model repository {repository} is empty: MODEL/VERSION/model.onnx is expected, for example "
            f"{repository / 'mymodel' / '1' / 'model.onnx'}"
        )
    return models


def is_version(text: str) -> bool:
    """Whether this names a version: a whole number from 1, without leading zeros."""
    return text.isascii() and text.isdigit() and not text.startswith("0")


def _newest(folder: Path) -> Found:
    for name, problem in _NOT_BUILT.items():
        if (folder / name).exists():
            return Found(folder.name, "", folder, problem)
    try:
        versions = [entry.name for entry in folder.iterdir() if entry.is_dir() and is_version(entry.name)]
    except OSError as error:
        return Found(folder.name, "", folder, f"{folder} cannot be read: {error.strerror}")
    if not versions:
        return Found(folder.name, "", folder, f"{folder} has no version: a folder named 1, 2, … is expected")
    version = max(versions, key=int)
    return Found(folder.name, version, folder / version)
