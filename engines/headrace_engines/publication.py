"""Puts built artefacts into a model repository as a version that servers find.

A version that exists is never changed, because a server may be serving it: artefacts that differ
from those of the newest version become the next one.
"""

from __future__ import annotations

from pathlib import Path

from headrace_engines import folders, report, store
from headrace_engines.errors import ModelFileError
from headrace_engines.printable import printable
from headrace_engines.standing import standings
from headrace_engines.store import Entry


def publish(entry: Entry, into: Path, name: str) -> tuple[Path, bool]:
    """Return the version folder that holds the entry's artefacts, and whether it is new.

    Nothing is done if the newest version has the same manifest, is whole, and serves the same: what was
    measured on another machine may not. Raises ValueError if `name` cannot be the name of a folder,
    FolderError if the repository cannot be written.
    """
    check_name(name)
    with folders.writing(into, folders.size_bytes(entry.folder)), folders.locked(into):
        model = into / name
        newest = max(_versions(model), default=0)
        if newest and _holds(model / str(newest), entry):
            return model / str(newest), False
        version = str(newest + 1)
        with folders.staged(into) as staging:
            folders.copy(entry.folder, staging / version)
            folders.sync(staging)
            # A model's folder without a version would be a broken model, so both appear together.
            if model.exists():
                (staging / version).rename(model / version)
            else:
                staging.rename(model)
        folders.sync_entry(model)
        folders.sync_entry(into)
        return model / version, True


def check_name(name: str) -> None:
    """Raise ValueError unless a model can have this name: that of a visible folder, told in one line."""
    if not name or name.startswith(".") or any(sign in name for sign in "/\\") or name != printable(name):
        raise ValueError(
            f"model name {name!r}: expected the name of a folder, in UTF-8, not starting with a dot, "
            "without control characters"
        )


def _versions(model: Path) -> list[int]:
    if not model.is_dir():
        return []
    names = (entry.name for entry in model.iterdir() if entry.is_dir())
    return [int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name))]


def _holds(folder: Path, entry: Entry) -> bool:
    """Whether a version holds the artefacts of the entry, and serves the same of them.

    Two measurements on one machine are as good as each other, whatever they found.
    """
    try:
        found = store.read(folder)
    except ModelFileError:
        return False
    if found.manifest != entry.manifest:
        return False
    machines = {report.machine_key(one.report.machine) for one in (found, entry)}
    return len(machines) == 1 or _served(found) == _served(entry)


def _served(entry: Entry) -> list[str]:
    """Return the files that may serve, in their order."""
    return [one.artefact.file for one in standings(entry.manifest, entry.report) if one.may_serve]
