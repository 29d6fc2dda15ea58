"""Writes log lines to stderr, and waits for nobody who does not read them.

Whoever reads a pipe may stop: a pager, a program that ships logs. Callers can bring about as many lines as
fill it, and a server that waited would answer nobody any more, and would not even stop.
"""

from __future__ import annotations

import io
import logging
import os
import select
from typing import Final, TextIO

_PIECE_BYTES: Final = select.PIPE_BUF
"""What is writable takes so much at once."""
_PATIENCE_MILLISECONDS: Final = 50
"""A reader may be a little behind."""


class Handler(logging.StreamHandler[TextIO]):
    """Writes to a stream as it is at the start; what cannot be written is lost, and nothing else.

    A program may close it, the disk behind it may be full, or nobody may read it, while somebody is to be
    told an error. How many lines nobody read is told once they are read again.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._descriptor = _descriptor(stream)
        self._poll = select.poll()
        if self._descriptor is not None:
            self._poll.register(self._descriptor, select.POLLOUT)
        self._is_behind = False
        """Whether the reader was too slow for the last line."""
        self._rest = b""
        """What of that line has not been written."""
        self._lost = 0
        """Lines since then."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line, unless nobody reads."""
        try:
            if self._descriptor is None:
                super().emit(record)
                return
            if self._is_behind and not self._catches_up(self._descriptor):
                self._lost += 1
                return
            self._write(self._descriptor, self._line(record))
        except Exception:  # whoever logs goes on
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the base's name
        """Let the line be lost."""

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + self.terminator).encode("utf-8", "backslashreplace")

    def _catches_up(self, descriptor: int) -> bool:
        """Write the rest, and how many lines are lost, as far as that can be done without waiting."""
        if not self._poll.poll(0):
            return False
        rest, self._rest, self._is_behind = self._rest, b"", False
        if self._lost:
            facts = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
            text = f"{self._lost} lines are lost here, because nobody read them"
            rest += self._line(logging.makeLogRecord({**facts, "msg": text}))
            self._lost = 0
        self._write(descriptor, rest)
        return not self._is_behind

    def _write(self, descriptor: int, line: bytes) -> None:
        """Write a line; what is not taken within the patience for a piece is kept for later."""
        while line:
            if not self._poll.poll(_PATIENCE_MILLISECONDS):
                self._rest, self._is_behind = line, True
                return
            line = line[os.write(descriptor, line[:_PIECE_BYTES]) :]


def _descriptor(stream: TextIO) -> int | None:
    """Return the file behind a stream; None if it is none, or has been closed."""
    try:
        return stream.fileno()
    except (AttributeError, ValueError, io.UnsupportedOperation):
        return None
