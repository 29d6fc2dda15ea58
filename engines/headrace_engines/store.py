"""Built artefacts on this machine, each under the key of all that decides its bytes.

What is found is proved by its hashes before it is used; an entry that was damaged is built again. A store may
be shared by machines: artefacts are, and which of them are faster than FP32 is measured on each.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
_KEY_SIGNS: Final = 48
_MACHINE_SIGNS: Final = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder with artefacts, their manifest and their report, all of which were found whole."""

    folder: Path
    manifest: Manifest
    report: Report


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a build asks a store for.

    `key` names all that decides the bytes, and `machine` what decides their speed: 64 hexadecimal digits
    each. `make` fills a folder with artefacts, manifest, report and page; `measure` one that holds artefacts
    and manifest with the two last, from the report of another machine. `is_same` says of what is there
    whether it would be made again by all that no key can know before.
    """

    key: str
    machine: str
    make: Callable[[Path], None]
    measure: Callable[[Path, Manifest, Report], None]
    is_same: Callable[[Manifest], bool] = lambda described: True

    @property
    def name(self) -> str:
        """The entry's folder."""
        return f"{self.key[:_KEY_SIGNS]}{self.machine[:_MACHINE_SIGNS]}"


@contextmanager
def find_or_make(store: Path, wanted: Wanted, on_wait: Callable[[], None]) -> Iterator[tuple[Entry, bool]]:
    """Find what is wanted, or have it made, and keep it there while the block uses it.

    Gives the entry, and whether its artefacts were there. One process at a time uses a store, so that two
    builds of the same do the work once and none disturbs what another measures; `on_wait` is called if that
    means waiting.
    """
    with folders.locked(store, on_wait):
        folder = store / wanted.name
        entry = _find(folder, wanted)
        other = None if entry else _of_another_machine(store, wanted)
        if entry is None:
            with folders.staged(store) as staging:
                _fill(staging, wanted, other)
                folders.sync(staging)
                if folder.exists():
                    shutil.rmtree(folder)
                staging.rename(folder)
            folders.sync_entry(store)
            yield read(folder), other is not None
            return
        with suppress(OSError):  # a store that cannot be written still serves builds
            os.utime(folder)
        yield entry, True


def _fill(staging: Path, wanted: Wanted, other: Entry | None) -> None:
    if other is None:
        wanted.make(staging)
        return
    made = (artefact.file for artefact in other.manifest.artefacts if artefact.passed)
    for name in (manifest.FILE_NAME, *made, *other.manifest.weights):
        _link(other.folder / name, staging / name)
    wanted.measure(staging, other.manifest, other.report)


def _link(file: Path, into: Path) -> None:
    """Have a file in two folders of a store, once on the disk where its file system can do that."""
    try:
        into.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, into)


def _of_another_machine(store: Path, wanted: Wanted) -> Entry | None:
    """Return an entry with the same artefacts, whose speed another machine has measured."""
    for folder in sorted(store.glob(f"{wanted.key[:_KEY_SIGNS]}*")):
        if folder.name != wanted.name:
            with suppress(ModelFileError):
                entry = read(folder)
                if wanted.is_same(entry.manifest):
                    return entry
    return None


def read(folder: Path) -> Entry:
    """Read a folder and prove each artefact in it by its hash; raises ModelFileError."""
    found, measured = manifest.read(folder), report.read(folder)
    if found is None or measured is None:
        raise ModelFileError(f"{manifest.FILE_NAME} or {report.FILE_NAME} is missing")
    for _, error in manifest.damage(folder, found):
        raise error
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


def _find(folder: Path, wanted: Wanted) -> Entry | None:
    if not folder.exists():
        return None
    try:
        entry = read(folder)
    except ModelFileError as error:
        _log.warning("the build stored in %s is damaged and made again: %s", folder, error)
        return None
    return entry if wanted.is_same(entry.manifest) else None
