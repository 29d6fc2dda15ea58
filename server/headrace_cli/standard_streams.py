"""The three standard streams: open from the start, and named by the errors of writing to them."""

from __future__ import annotations

import io
import os
import sys
from typing import Final

STDOUT: Final = "stdout"
_STREAMS: Final = (("stdin", "r"), (STDOUT, "w"), ("stderr", "w"))
"""By their descriptors, 0 to 2."""


class _Stdout(io.FileIO):
    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer, as in FileIO
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STDOUT
            raise


def prepare() -> None:
    """Open /dev/null in the place of streams that this process was started without, and name stdout.

    Else the next file that is opened gets such a number: what is printed would go there, and the event loop
    aborts the process rather than close it.
    """
    for descriptor, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, mode, closefd=False))
    old = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(old.fileno(), "wb", closefd=False)),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.isatty(),
    )


def give_up_stdout() -> None:
    """Let go of what cannot be written; without this the interpreter complains while it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
