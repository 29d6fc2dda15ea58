"""Messages of procedures, from bytes."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from headrace_server.errors import InvalidInput, MessageTooLarge
from headrace_server.transport.inflation import inflate, is_compressed

M = TypeVar("M", bound=Message)

_FEW_BYTES: Final = 64 << 10
"""Of procedures that are told little. Everybody waits while a message is parsed."""


def check_size(kind: type[Message], message: bytes) -> None:
    """Refuse a message that is not short. Raises MessageTooLarge."""
    if len(message) > _FEW_BYTES:
        name = kind.DESCRIPTOR.name
        raise MessageTooLarge(
            f"the message is larger than max for a {name} ({len(message)} vs. {_FEW_BYTES} bytes)"
        )


def parse(kind: type[M], message: bytes) -> M:
    """Return the short message in these bytes, which may have come compressed; another is refused unread.

    Raises InvalidInput, MessageTooLarge.
    """
    check_size(kind, message)
    if is_compressed(message):
        message = inflate(message, _FEW_BYTES)
    return parse_whole(kind, message)


def parse_whole(kind: type[M], message: bytes) -> M:
    """Return the message in these bytes, however many there are. Raises InvalidInput."""
    try:
        return kind.FromString(message)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise InvalidInput(f"the message is no {name}: its bytes cannot be parsed") from None
