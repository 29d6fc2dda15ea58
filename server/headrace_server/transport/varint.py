"""Protobuf's numbers of variable length."""

from __future__ import annotations

from typing import Final

_SMALL: Final = tuple(bytes((n,)) for n in range(128))


def varint(value: int) -> bytes:
    """Return the bytes of a number that is not negative."""
    if value < 128:
        return _SMALL[value]
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
