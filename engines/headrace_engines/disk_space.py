"""What is told of a disk that is full, by whatever library found it so."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_TEXTS: Final = tuple(os.strerror(number).lower() for number in _FULL)
"""What is left of the system's error where a library makes one of its own of it."""


def is_full(error: BaseException) -> bool:
    """Tell whether the error, or one that led to it, is that of a full disk."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in _FULL or any(text in str(cause).lower() for text in _TEXTS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def check_after(error: Exception, folder: Path, needed_bytes: int) -> None:
    """Raise the system's error of a full disk if a file of so many bytes would have found no place there.

    For libraries that do not look whether what they write is written, and fail at reading it.
    """
    if _free_bytes(folder) < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def complaint(folder: Path, needed_bytes: int = 0) -> str:
    """Return what is told of a full disk that was met while the folder, which need not exist, was written.

    Temporary files were written as well, and errors seldom tell which it was: the fuller disk is named. Where
    it is known what the folder needed, it was that.
    """
    temporary = Path(tempfile.gettempdir())
    place = folder if needed_bytes else min(folder, temporary, key=_free_bytes)
    needed = f"{needed_bytes} bytes are needed" if needed_bytes else "more is needed"
    hint = "" if place == folder else "; TMPDIR names another place for temporary files"
    return (
        f"{place} cannot be written: no space left on device: the file system at {_mount(place)} has "
        f"{_free_bytes(place)} bytes free, and {needed}{hint}"
    )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _mount(folder: Path) -> Path:
    place = _existing(folder).resolve()
    return next(above for above in (place, *place.parents) if above.is_mount())


def _existing(folder: Path) -> Path:
    """Return the folder, or the first above it that there is."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
