"""Flow control between a program that makes many responses and a caller that reads them slowly.

The engine's thread asks for room before it hands a response to the transport; the transport gives the
room back when the response has left. So what is on its way is bounded, whatever the caller does.
"""

from __future__ import annotations

import threading
from typing import Final

MAX_PARTS: Final = 64
MAX_BYTES: Final = 4 << 20


class Window:
    """What one request may have on its way to its caller: so many responses, and so many bytes of them."""

    __slots__ = ("_changed", "_max_bytes", "_max_parts", "_open", "_parts", "_size_bytes")

    def __init__(self, max_parts: int = MAX_PARTS, max_bytes: int = MAX_BYTES) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._max_parts = max_parts
        self._max_bytes = max_bytes
        self._parts = 0
        self._size_bytes = 0
        self._open = False

    def admit(self, size_bytes: int, timeout_seconds: float) -> bool:
        """Wait for room and take it; return whether there was any in time.

        A response of any size may be on its way alone. Called from the engine's thread.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(size_bytes), timeout_seconds):
                return False
            self._parts += 1
            self._size_bytes += size_bytes
            return True

    def written(self, size_bytes: int) -> None:
        """Give back the room of one response, which has left or was dropped. Any thread; never blocks."""
        with self._changed:
            self._parts -= 1
            self._size_bytes -= size_bytes
            self._changed.notify()

    def open(self) -> None:
        """Let everything through from now on: nobody reads any more, so nothing is kept."""
        with self._changed:
            self._open = True
            self._changed.notify()

    def _has_room(self, size_bytes: int) -> bool:
        if self._open or not self._parts:
            return True
        return self._parts < self._max_parts and self._size_bytes + size_bytes <= self._max_bytes
