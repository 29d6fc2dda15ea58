"""When objects of a library end: inside the GPU's context that they were made in, or never.

As they end they free their memory on the GPU.
"""

from __future__ import annotations

import ctypes
import threading
import traceback
from typing import Final

_kept: Final = threading.Event()


def keep_for_ever(*things: object) -> None:
    """Have objects outlive all, whose context is gone: their memory may be somebody else's by now."""
    for thing in things:
        _kept.set()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def has_kept() -> bool:
    """Whether anything outlives all, and a library would free it if the interpreter were taken down."""
    return _kept.is_set()


def let_go(error: BaseException) -> None:
    """Have the error hold no objects: its frames would, until the last has forgotten it."""
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        link = chain.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            chain += [link.__cause__, link.__context__]
