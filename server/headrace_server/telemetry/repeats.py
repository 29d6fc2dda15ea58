"""Lines of a library that any caller can have it log, with a traceback, once for each call."""

from __future__ import annotations

import logging
from typing import Final

_SECONDS: Final = 60.0
_WORDS: Final = 3
"""The words that a line begins with tell its kind; what comes after may quote a caller."""


class Repeats:
    """Lets through one line of each kind a minute, which tells how many were left out before it."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], float] = {}
        self._left_out: dict[tuple[str, ...], int] = {}

    def admits(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written; it is told of those before it."""
        kind = (record.name, *str(record.msg).split(maxsplit=_WORDS)[:_WORDS])
        last = self._last.get(kind)
        if last is not None and 0 <= record.created - last < _SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._last[kind] = record.created
        if left_out := self._left_out.pop(kind, 0):
            record.msg = f"{record.getMessage()} (and {left_out} lines like it before, which were left out)"
            record.args = ()
        return True
