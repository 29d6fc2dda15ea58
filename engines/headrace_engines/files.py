"""Files of a version folder, looked at before they are opened: a pipe would be waited for without end.

Complaints name a file without its folder, because they reach clients, who need not know where a
server keeps its models.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from headrace_engines.errors import ModelFileError

_START_BYTES: Final = 256
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_PAGES: Final = (b"<!doctype", b"<html", b"<?xml")


def check(path: Path) -> None:
    """Raise ModelFileError unless the path leads to a regular file that may be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"{path.name}: not a regular file")
        path.open("rb").close()
    except FileNotFoundError as error:
        raise ModelFileError(f"{path.name}: no such file") from error
    except OSError as error:
        raise unreadable(path, error) from error


def text(path: Path, most_bytes: int) -> str:
    """Return what a text file holds, without the byte order mark that some editors put in front.

    Raises ModelFileError if it is no text, or larger than `most_bytes`.
    """
    check(path)
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > most_bytes:
        raise ModelFileError(f"{path.name}: larger than {most_bytes} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ModelFileError(f"{path.name}: no UTF-8 text: {error.reason} in line {line}") from error


def nature(path: Path) -> str:
    """Say of a model's file that cannot be read as one how large it is, and what it probably is instead."""
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES).lstrip().lower()
        size_bytes = path.stat().st_size
    except OSError as error:
        return str(unreadable(path, error))
    if not size_bytes:
        return "the file is empty"
    if start.startswith(_LFS_POINTER):
        return f"the file has {size_bytes} bytes and is a Git LFS pointer: run `git lfs pull`"
    if start.startswith(_PAGES):
        return f"the file has {size_bytes} bytes and is a web page: its download went wrong"
    return f"the file has {size_bytes} bytes, and may have been cut short"


def unreadable(path: Path, error: OSError) -> ModelFileError:
    """Return the complaint about a file that the system does not let be read, to be raised."""
    return ModelFileError(f"{path.name}: cannot be read: {(error.strerror or str(error)).lower()}")
