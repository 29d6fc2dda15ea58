"""Bytes of requests and answers that a transport holds, so that no client can fill the memory.

A request counts from its arrival until its answer has been sent: with its own bytes, with those that its
answer will have as far as the sizes of the model's outputs are fixed, and with the rest of them once they
are known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from headrace_server.core.request import Work
from headrace_server.errors import Overloaded

_STREAM_SHARE: Final = 16
_NAMES_BYTES: Final = 4096


class Call:
    """What one call or stream holds."""

    __slots__ = ("is_over", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.is_over = False


class Holdings:
    """The sum over all calls, and its limit."""

    def __init__(self, most_bytes: int, on_full: Callable[[], None] = lambda: None) -> None:
        """`on_full` is called before something is refused, by any thread, and may find room."""
        self.most_bytes = most_bytes
        self._on_full = on_full
        self._most_bytes_of_stream = most_bytes // _STREAM_SHARE
        self._lock = threading.Lock()
        self.size_bytes = 0

    def admit(self, call: Call, size_bytes: int, own_bytes: int = 0) -> None:
        """Count further bytes of a request or its answer, or raise Overloaded. Any thread.

        The request has `own_bytes` so far; one of any size may be alone.
        """
        if self._add_if_it_fits(call, size_bytes, own_bytes):
            return
        self._on_full()
        if not self._add_if_it_fits(call, size_bytes, own_bytes):
            raise Overloaded(f"{self.size_bytes} bytes are in flight, the limit is {self.most_bytes}")

    def add(self, call: Call, size_bytes: int) -> None:
        """Count what the call holds more, or less; one that has ended holds nothing any more."""
        with self._lock:
            if not call.is_over:
                call.size_bytes += size_bytes
                self.size_bytes += size_bytes

    def has_room(self, stream: Call) -> bool:
        """Whether a stream may take in another request before it has sent what it holds."""
        return stream.size_bytes <= self._most_bytes_of_stream

    def release(self, call: Call) -> None:
        """Forget a call that has ended."""
        with self._lock:
            self.size_bytes -= call.size_bytes
            call.size_bytes = 0
            call.is_over = True

    def _add_if_it_fits(self, call: Call, size_bytes: int, own_bytes: int) -> bool:
        with self._lock:
            if self.size_bytes > own_bytes and self.size_bytes + size_bytes > self.most_bytes:
                return False
            if not call.is_over:
                call.size_bytes += size_bytes
                self.size_bytes += size_bytes
            return True


def foreseen_bytes(work: Work) -> int:
    """Return the bytes that the rows of the answer will at least have."""
    return work.rows * work.model.facts.answer_row_bytes


def unforeseen_bytes(work: Work, answer: bytes) -> int:
    """Return what an answer has beyond those, and beyond a few names and shapes."""
    return max(len(answer) - foreseen_bytes(work) - _NAMES_BYTES, 0)
