"""Messages that come compressed, inflated here and not by gRPC.

gRPC inflates them as they arrive, and all that came together is held before the first of them is counted: a
hundred messages of 60 KB took six gigabytes. So it is told to hand them over as they are. It does not say
which these are, but they begin as no request of the protocol can.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Iterator
from typing import Final

from headrace_server.errors import InvalidInput, MessageTooLarge

_BEGINNINGS: Final = frozenset((b"\x1f\x8b", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"))
"""Of gzip, a wire type that protobuf does not have, and of zlib, which gRPC calls deflate: field 15, which no
request has."""
_EITHER_FORMAT: Final = zlib.MAX_WBITS + 32
_SHORT_BYTES: Final = 1 << 16
_AT_ONCE: Final = 2
"""Messages that are inflated, or have been and are not counted yet."""


class Inflation:
    """Inflates what takes its time, few at a time. It blocks: threads beside a transport call it."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` is the largest message that is accepted."""
        self._most_bytes = most_bytes
        self._turns = threading.Semaphore(_AT_ONCE)

    @contextlib.contextmanager
    def inflated(self, message: bytes) -> Iterator[bytes]:
        """Give a message as it is, or what a compressed one is, which is to be counted in the block.

        Raises InvalidInput or MessageTooLarge.
        """
        if not is_compressed(message):
            yield message
            return
        with self._turns:
            yield inflate(message, self._most_bytes)


def is_compressed(message: bytes) -> bool:
    """Whether a request came compressed."""
    return message[:2] in _BEGINNINGS


def inflate(message: bytes, most_bytes: int) -> bytes:
    """Return what a compressed message is, and never hold much more of it than is allowed.

    Raises InvalidInput where it is damaged, MessageTooLarge where it is more.
    """
    inflater = zlib.decompressobj(_EITHER_FORMAT)
    try:
        inflated = inflater.decompress(message, most_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the message came compressed and cannot be inflated: {error}") from None
    if len(inflated) > most_bytes:
        raise MessageTooLarge(f"the message is larger than max once it is inflated: {most_bytes} bytes")
    if not inflater.eof:
        raise InvalidInput("the message came compressed, and its end is missing")
    return inflated


def beginning(message: bytes) -> bytes:
    """Return a message as it is, or as much of a compressed one as is inflated in no time."""
    if not is_compressed(message):
        return message
    try:
        return zlib.decompressobj(_EITHER_FORMAT).decompress(message, _SHORT_BYTES)
    except zlib.error:
        return b""
