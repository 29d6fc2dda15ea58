"""Built artefacts on this machine, each under the key of all that decides its bytes.

What is found is proved by its hashes before it is used; an entry that was damaged is built again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace_engines import folders, manifest, report
from headrace_engines.errors import ModelFileError
from headrace_engines.manifest import Manifest
from headrace_engines.report import Report

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
    return Entry(folder, found, measured)


def _find(folder: Path) -> Entry | None:
    if not folder.exists():
        return None
    try:
        return read(folder)
    except ModelFileError as error:
        _log.warning("the build stored in %s is damaged and made again: %s", folder, error)
        shutil.rmtree(folder)
        return None
