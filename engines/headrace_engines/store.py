"""Built artefacts on this machine, each under the key of all that decides its bytes.

What is found is proved by its hashes before it is used; an entry that was damaged is built again.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import folders, manifest, report
from headrace_engines.errors import ModelFileError
from headrace_engines.manifest import Manifest
from headrace_engines.report import Report

CACHES: Final = "caches"
"""The folder in a store for what tools measured and will measure again without."""

_KEY: Final = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder with artefacts, their manifest and their report, all of which were found whole."""

    folder: Path
    manifest: Manifest
    report: Report


def find_or_make(
    store: Path, key: str, make: Callable[[Path], None], on_wait: Callable[[], None]
) -> tuple[Entry, bool]:
    """Return the entry of the key and whether it was there; else let `make` fill a folder for it.

    One process at a time makes an entry, so that two builds of the same do the work once and none
    disturbs what another measures; `on_wait` is called if that means waiting.
    """
    with folders.locked(store, on_wait):
        folder = store / key
        entry = _find(folder)
        if entry is not None:
            with suppress(OSError):  # a store that cannot be written still serves builds
                os.utime(folder)
            return entry, True
        with folders.staged(store) as staging:
            make(staging)
            folders.sync(staging)
            staging.rename(folder)
        folders.sync_entry(store)
        return read(folder), False


def read(folder: Path) -> Entry:
    """Read a folder and prove each artefact in it by its hash; raises ModelFileError."""
    found, measured = manifest.read(folder), report.read(folder)
    if found is None or measured is None:
        raise ModelFileError(f"{manifest.FILE_NAME} or {report.FILE_NAME} is missing")
    for artefact in found.artefacts:
        if artefact.passed:
            manifest.verify(folder, artefact)
    manifest.verify_weights(folder, found)
    return Entry(folder, found, measured)


@dataclass(frozen=True, slots=True)
class Stored:
    """What one folder of a store holds; `damage` says what is wrong with it, "" if nothing is.

    `manifest` is None where it cannot be read. `used_at` is when a build made or took it, in seconds since
    1970.
    """

    key: str
    folder: Path
    size_bytes: int
    used_at: float
    manifest: Manifest | None
    damage: str


def stored(store: Path, *, verifying: bool = False) -> list[Stored]:
    """Return what a store holds, what was used last first; `verifying` reads every artefact for its hash."""
    folders_found = [folder for folder in store.glob("*") if _KEY.fullmatch(folder.name) and folder.is_dir()]
    found = [_stored(folder, verifying=verifying) for folder in folders_found]
    return sorted(found, key=lambda single: single.used_at, reverse=True)


def _stored(folder: Path, *, verifying: bool) -> Stored:
    described, damage = None, ""
    try:
        described = read(folder).manifest if verifying else manifest.read(folder)
    except ModelFileError as error:
        damage = str(error)
    if described is None and not damage:
        damage = f"{manifest.FILE_NAME} is missing"
    size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Stored(folder.name, folder, size_bytes, folder.stat().st_mtime, described, damage)


def prune(store: Path, unused_since: float, on_wait: Callable[[], None]) -> list[Stored]:
    """Remove what is damaged and what no build has used since a time; return what was removed.

    What a killed build left behind goes with it. Raises FolderError if the store cannot be written.
    """
    with folders.writing(store), folders.locked(store, on_wait):
        going = [
            single
            for single in stored(store, verifying=True)
            if single.damage or single.used_at < unused_since
        ]
        for single in going:
            shutil.rmtree(single.folder)
        return going


def _find(folder: Path) -> Entry | None:
    if not folder.exists():
        return None
    try:
        return read(folder)
    except ModelFileError as error:
        _log.warning("the build stored in %s is damaged and made again: %s", folder, error)
        shutil.rmtree(folder)
        return None
