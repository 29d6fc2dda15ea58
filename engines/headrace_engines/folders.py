"""Folders that appear whole or not at all, and that one process at a time changes.

What is written goes to a hidden folder beside its place, onto the disk, and is then renamed, which
the system does in one step: whoever looks sees the old state or the new one, and a process that is
killed leaves nothing but a hidden folder, which the next one to hold the lock removes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from headrace_engines import disk_space
from headrace_engines.errors import FolderError

UNFINISHED: Final = ".headrace-"
"""How the names begin of what is swept from a locked folder."""


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the only right to change the folder; makes it if need be, sweeps what was left unfinished.

    The lock is on the folder itself and ends with the process, so that no lock file stays behind.
    `on_wait` is called once if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)  # what a source closed even to its user stays
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing(folder: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn a failure of the system inside the block into a FolderError about the folder asked for.

    `needed_bytes` are what the block writes there, where that is known.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # of somebody who was told about progress and left
    except OSError as error:
        if disk_space.is_full(error):
            raise FolderError(disk_space.complaint(folder, needed_bytes)) from error
        reason = (error.strerror or str(error)).lower()
        raise FolderError(f"{folder} cannot be written: {reason}") from error


def check_writable(folder: Path) -> None:
    """Raise FolderError unless the folder, or the first one above it that there is, takes new files.

    Nothing is left there: whatever comes of the work that follows, the folder is as it was.
    """
    existing = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    with writing(folder), tempfile.TemporaryFile(dir=existing):
        pass


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Make a hidden folder inside a locked one, to be renamed when it is complete; removed if it is not."""
    staging = folder / f"{UNFINISHED}{secrets.token_hex(8)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def copy(source: Path, into: Path) -> None:
    """Copy a folder with all that it holds; ends with the system's own error at the first file that fails."""
    into.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            copy(entry, into / entry.name)
        else:
            shutil.copy2(entry, into / entry.name)


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sync(folder: Path) -> None:
    """Bring a folder with all that it holds onto the disk."""
    for parent, _, files in os.walk(folder, topdown=False):
        for file in files:
            sync_entry(Path(parent, file))
        sync_entry(Path(parent))


def sync_entry(path: Path) -> None:
    """Bring one file, or the names in one folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
