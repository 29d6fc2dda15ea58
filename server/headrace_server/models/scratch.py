"""Temporary folders with the files of callers, and the removal of those that a killed process left.

A folder's name has the number of its process, which also holds a lock on the folder: the number may be
another process's by now, or be counted apart, as in containers that share their temporary files.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_logger = logging.getLogger(__name__)

_PREFIX: Final = "headrace-model-"
_NAME: Final = re.compile(rf"{_PREFIX}([1-9][0-9]{{0,6}})-\w+")


class ScratchFolder:
    """A folder that is removed with this object, or with the process if that can."""

    def __init__(self) -> None:
        """Make the folder, which this user alone may read. Raises OSError."""
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        lock = os.open(self.path, os.O_RDONLY)
        self._remove = weakref.finalize(self, _remove, self.path, lock)
        with suppress(OSError):  # where there are no locks, nobody removes what was left either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Remove the folder now."""
        self._remove()


def remove_abandoned() -> None:
    """Remove the folders of this user's processes that are no more; what cannot be removed stays."""
    try:
        entries = list(Path(tempfile.gettempdir()).iterdir())
    except OSError:
        return
    for folder in entries:
        named = _NAME.fullmatch(folder.name)
        if named is None or _is_alive(int(named[1])):
            continue
        with suppress(OSError), _locked(folder) as descriptor:
            if os.fstat(descriptor).st_uid == os.getuid():
                shutil.rmtree(folder)
                _logger.info("removed %s, which process %s had left", folder, named[1])


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold a folder that no process does. Raises OSError where one holds it, or it is no folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
