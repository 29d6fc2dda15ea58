"""What model repositories hold: `<repository>/<model>/<version>/`, read without opening any model."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HIGHEST_VERSION: Final = 2**63 - 1
"""The protocol's numbers have 64 bits."""
_WARMUP: Final = "warmup"
"""The one folder of a model that is no version and that its configuration may name files in."""
_BYTE_CODE: Final = "__pycache__"
"""What Python writes beside a program when it is first executed says nothing new about it."""


class RepositoryError(Exception):
    """A repository cannot be served at all; the text says what was looked for, and where."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """How files look from outside: those with equal stamps are taken to hold the same."""

    files: frozenset[tuple[str, int, int, int, int]] = frozenset()
    """Path in the folder, bytes, inode, and in nanoseconds when it was written and when its inode changed.

    Nobody can set the last: a file that is given the size and the time of the one before differs in it.
    """
    was_placed: bool = field(default=False, compare=False)
    """Whether the folder was renamed into its place after all of it was written."""


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """A version's folder."""

    number: int
    folder: Path
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder; `problem` says why it was not read, and then it has no versions."""

    name: str
    folder: Path
    stamp: Stamp = Stamp()
    """Of the files beside the versions: they concern each of them."""
    versions: Mapping[int, FoundVersion] = field(default_factory=dict)
    problem: str = ""


def scan(repositories: Sequence[Path]) -> dict[str, FoundModel]:
    """Return every model of the repositories by name. Raises RepositoryError if one cannot be read."""
    found: dict[str, list[FoundModel]] = {}
    for repository in repositories:
        for folder in _model_folders(repository):
            found.setdefault(folder.name, []).append(read_model(folder.name, folder))
    return {name: models[0] if len(models) == 1 else _ambiguous(models) for name, models in found.items()}


def read_model(name: str, folder: Path) -> FoundModel:
    """Return the model in this folder, with all its versions."""
    try:
        numbers = [int(entry.name) for entry in folder.iterdir() if is_version(entry.name) and entry.is_dir()]
        placed_ns = _placed_ns(folder)
        stamp = _stamp(folder, _own_files(folder), placed_ns)
        versions = {number: _version(folder / str(number), placed_ns) for number in sorted(numbers)}
    except OSError as error:
        return FoundModel(name, folder, problem=f"{folder} cannot be read: {error.strerror}")
    return FoundModel(name, folder, stamp, versions)


def is_version(text: str) -> bool:
    """Whether this names a version: a whole number of 64 bits from 1, without leading zeros."""
    return is_number(text) and len(text) <= len(str(HIGHEST_VERSION)) and int(text) <= HIGHEST_VERSION


def is_number(text: str) -> bool:
    """Whether this is a whole number from 1, without leading zeros, however large."""
    return text.isascii() and text.isdigit() and not text.startswith("0")


def _model_folders(repository: Path) -> list[Path]:
    try:
        if not repository.is_dir():
            raise RepositoryError(f"there is no model repository at {repository}: no such folder")
        entries = list(repository.iterdir())
    except OSError as error:
        raise RepositoryError(
            f"the model repository {repository} cannot be read: {error.strerror}"
        ) from error
    return sorted(entry for entry in entries if not entry.name.startswith(".") and _may_be_folder(entry))


def _may_be_folder(entry: Path) -> bool:
    """Whether this is a folder, or cannot be looked at: then reading it says why, and the rest is served."""
    try:
        return entry.is_dir()
    except OSError:
        return True


def _ambiguous(models: Collection[FoundModel]) -> FoundModel:
    folders = [model.folder for model in models]
    names = " and ".join(map(str, folders))
    problem = f"two repositories hold a model of this name, {names}: rename or remove one of them"
    return FoundModel(folders[0].name, folders[0], problem=problem)


def _version(folder: Path, placed_ns: int) -> FoundVersion:
    stamp = _stamp(folder, _below(folder), max(placed_ns, _placed_ns(folder)))
    return FoundVersion(int(folder.name), folder, stamp)


def _own_files(folder: Path) -> Iterator[Path]:
    """Yield the model's folder, and what its configuration may name; a version's files are not among them."""
    yield folder
    yield from (entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file())
    yield from _below(folder / _WARMUP)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the folder and all that it holds, but for what is hidden."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != _BYTE_CODE]
        yield Path(parent)
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _stamp(folder: Path, paths: Iterator[Path], placed_ns: int) -> Stamp:
    files = set()
    written_ns = 0
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # it is being replaced, and the next look will tell
        written_ns = max(written_ns, status.st_mtime_ns)
        if not stat.S_ISDIR(status.st_mode):
            times_ns = (status.st_mtime_ns, status.st_ctime_ns)
            files.add((str(path.relative_to(folder)), status.st_size, status.st_ino, *times_ns))
    return Stamp(frozenset(files), was_placed=placed_ns > written_ns)


def _placed_ns(folder: Path) -> int:
    """Return when the folder was renamed, 0 if it was changed after that or never was.

    Making, removing and renaming what is in a folder moves both of its times, being renamed only the second.
    """
    status = folder.stat()
    renamed_ns = max(status.st_ctime_ns, folder.lstat().st_ctime_ns)
    return renamed_ns if renamed_ns > status.st_mtime_ns else 0
