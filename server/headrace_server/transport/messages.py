"""Messages of procedures, from bytes."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from headrace_server.errors import InvalidInput
from headrace_server.transport.inflation import inflate_short, is_compressed

M = TypeVar("M", bound=Message)


def parse(kind: type[M], message: bytes) -> M:
    """Return the message in these bytes; a short one may have come compressed.

    Raises InvalidInput, MessageTooLarge.
    """
    if is_compressed(message):
        message = inflate_short(message)
    try:
        return kind.FromString(message)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise InvalidInput(f"the message is no {name}: its bytes cannot be parsed") from None
