"""How the path of a Unix socket is written where an address is expected: unix:PATH or unix:///PATH."""

from __future__ import annotations

import os
from typing import Final

PREFIX: Final = "unix:"
LONGEST_BYTES: Final = 107
"""What the kernel has room for, less the zero at the end."""


def parse(address: str) -> str:
    """Return the path that an address with the prefix says; ValueError tells what is wrong with it."""
    path = address.removeprefix(PREFIX)
    if path.startswith("//"):
        path = path.removeprefix("//")
        if not path.startswith("/"):
            raise ValueError(
                f"{address!r}: after unix:// an absolute path is expected, as in unix:///run/it.sock"
            )
    if not path or path.endswith("/") or "\0" in path:
        raise ValueError(f"{address!r} has no path of a socket: expected unix:PATH")
    size = len(os.fsencode(path))
    if size > LONGEST_BYTES:
        raise ValueError(f"{address!r}: the path has {size} bytes, a socket's may have {LONGEST_BYTES}")
    return path
