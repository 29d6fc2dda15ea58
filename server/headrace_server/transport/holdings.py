"""Bytes of requests and answers that a transport holds, so that no client can fill the memory.

A request counts from its arrival until its answer has been sent, with its own bytes and those that its
answer will have, as far as the sizes of the model's outputs are fixed.
"""

from __future__ import annotations

from typing import Final

from headrace_server.errors import Overloaded

_RETRY_AFTER_SECONDS: Final = 1.0
_STREAM_SHARE: Final = 16


class Call:
    """What one call or stream holds."""

    __slots__ = ("is_over", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.is_over = False


class Holdings:
    """The sum over all calls, and its limit."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._most_bytes_of_stream = most_bytes // _STREAM_SHARE
        self.size_bytes = 0

    def admit(self, call: Call, size_bytes: int) -> None:
        """Count a request that arrived, or raise Overloaded; one of any size may be alone."""
        if self.size_bytes and self.size_bytes + size_bytes > self.most_bytes:
            raise Overloaded(
                f"{self.size_bytes} bytes are in flight, the limit is {self.most_bytes}",
                _RETRY_AFTER_SECONDS,
            )
        self.add(call, size_bytes)

    def add(self, call: Call, size_bytes: int) -> None:
        """Count what the call holds more, or less; one that has ended holds nothing any more."""
        if call.is_over:
            return
        call.size_bytes += size_bytes
        self.size_bytes += size_bytes

    def has_room(self, stream: Call) -> bool:
        """Whether a stream may take in another request before it has sent what it holds."""
        return stream.size_bytes <= self._most_bytes_of_stream

    def release(self, call: Call) -> None:
        """Forget a call that has ended."""
        self.size_bytes -= call.size_bytes
        call.size_bytes = 0
        call.is_over = True
