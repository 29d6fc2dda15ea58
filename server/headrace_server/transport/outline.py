"""What a request's bytes are made of, found without building the message.

Protobuf builds a message in one go, and nothing else runs in the process meanwhile: sixty mebibytes of
empty inputs take it seconds and gigabytes. So a message of more than a few pages is walked through first,
field by field, up to a number that no honest request reaches; other threads run between the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from headrace_server.errors import InvalidInput

MOST_DIMENSIONS: Final = 64
"""NumPy's own limit."""
_SHORT_BYTES: Final = 1 << 16
"""What is not longer is built and checked within a few milliseconds, whatever it holds."""
_LONG_BYTES: Final = 1 << 20
_MOST_FIELDS: Final = 1 << 18
_FEW_FIELDS: Final = 256
_MOST_SHAPE_BYTES: Final = MOST_DIMENSIONS * 10
_MOST_VARINT_BYTES: Final = 10

_Nesting = Mapping[int, Any]
_LEAF: Final[_Nesting] = {}
_PARAMETER: Final[_Nesting] = {2: _LEAF}
_INPUT: Final[_Nesting] = {4: _PARAMETER, 5: _LEAF}
_OUTPUT: Final[_Nesting] = {2: _PARAMETER}
_REQUEST: Final[_Nesting] = {4: _PARAMETER, 5: _INPUT, 6: _OUTPUT}
"""Which fields of a ModelInferRequest are messages themselves, by number."""

_CONTROL: Final[_Nesting] = {3: {2: _LEAF}}
"""Likewise of a RepositoryModelLoadRequest, whose parameters hold files; what others have is short."""
_MOST_CONTROL_FIELDS: Final = 4096
"""Of a load with as many files as may come, and more."""

_REQUEST_ID: Final = 3
_INPUT_DATATYPE: Final = 2
_INPUT_SHAPE: Final = 3
_INPUT_CONTENTS: Final = 5
_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_FIXED_BYTES: Final[Mapping[int, int]] = {1: 8, 3: 0, 4: 0, 5: 4}
"""By wire type; a group's fields count like those around it."""


class _Field(NamedTuple):
    parent: _Nesting
    number: int
    start: int
    end: int


def is_slow(message: bytes) -> bool:
    """Whether building or checking the message may take so long that others should not wait for it."""
    if len(message) <= _SHORT_BYTES:
        return False
    if len(message) > _LONG_BYTES:
        return True
    for count, field in enumerate(_fields(message)):
        if count >= _FEW_FIELDS:
            return True
        if field.parent is _INPUT and (
            field.number == _INPUT_CONTENTS
            or (field.number == _INPUT_DATATYPE and message[field.start : field.end] == b"BYTES")
        ):
            return True
    return False


def check(message: bytes) -> None:
    """Refuse a message that would take seconds to build. Raises InvalidInput."""
    if len(message) <= _SHORT_BYTES:
        return
    for count, field in enumerate(_fields(message)):
        if count >= _MOST_FIELDS:
            raise InvalidInput(
                f"the message has more than {_MOST_FIELDS} fields; that many strings or numbers are expected "
                "in raw_input_contents"
            )
        size_bytes = field.end - field.start
        if field.parent is _INPUT and field.number == _INPUT_SHAPE and size_bytes > _MOST_SHAPE_BYTES:
            raise InvalidInput(
                f"an input's shape of {size_bytes} bytes came, at most {MOST_DIMENSIONS} dimensions expected"
            )


def check_control(message: bytes) -> None:
    """Refuse a load that would take seconds to build. Raises InvalidInput."""
    if len(message) <= _SHORT_BYTES:
        return
    for count, _ in enumerate(_fields(message, _CONTROL)):
        if count >= _MOST_CONTROL_FIELDS:
            raise InvalidInput(f"the message has more than {_MOST_CONTROL_FIELDS} fields")


def request_id(message: bytes) -> str:
    """Return the id of a request that may be refused or damaged; "" where there is none to be found."""
    found = b""
    for count, field in enumerate(_fields(message)):
        if field.parent is _REQUEST and field.number == _REQUEST_ID:
            found = message[field.start : field.end]
        if count >= _FEW_FIELDS:
            break
    return found.decode(errors="replace")


def _fields(message: bytes, root: _Nesting = _REQUEST) -> Iterator[_Field]:
    """Go through all fields of a message, nested ones after the one that they stand in.

    Bytes that are no such message end it, or the part that they stand in: to say what is wrong with them
    is protobuf's.
    """
    open_until: list[tuple[int, _Nesting]] = [(len(message), root)]
    position = 0
    while open_until:
        end, parent = open_until[-1]
        if position >= end:
            open_until.pop()
            continue
        tag, start = _varint(message, position, end)
        number, wire_type = tag >> 3, tag & 7
        nested = None
        if wire_type == _LENGTH_DELIMITED:
            length, start = _varint(message, start, end)
            position = start + length
            nested = parent.get(number)
        elif wire_type == _VARINT:
            _, position = _varint(message, start, end)
        else:
            position = start + _FIXED_BYTES.get(wire_type, end)
        if position > end:
            position = end
            continue
        yield _Field(parent, number, start, position)
        if nested is not None:
            open_until.append((position, nested))
            position = start


def _varint(message: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the number that begins here, and where it ends; one that does not ends where all does."""
    value = shift = 0
    for at in range(position, min(end, position + _MOST_VARINT_BYTES)):
        byte = message[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + 1
        shift += 7
    return value, end
