"""Tells an ONNX file by its layout: the fields of its outermost message, without reading what they hold."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import IO, Final

from headrace_engines.errors import UnsupportedModelError

_VARINT: Final = 0
_LENGTH: Final = 2
_FIELDS: Final = {
    1: _VARINT, 2: _LENGTH, 3: _LENGTH, 4: _LENGTH, 5: _VARINT, 6: _LENGTH, 7: _LENGTH, 8: _LENGTH,
    14: _LENGTH, 20: _LENGTH, 25: _LENGTH, 26: _LENGTH,
}  # fmt: skip
"""The wire types of ModelProto's fields."""
_IR_VERSION: Final = 1
_GRAPH: Final = 7
_MOST_FIELDS: Final = 100_000


class Layout(Enum):
    """What a file's fields are."""

    WHOLE = "an ONNX model"
    CUT_SHORT = "an ONNX model that was cut short"
    OTHER = "no ONNX model"


def layout(path: Path) -> Layout:
    """Return whether the file is an ONNX model, from its first field to its last byte."""
    size = path.stat().st_size
    found: set[int] = set()
    with path.open("rb") as file:
        for _ in range(_MOST_FIELDS):
            if file.tell() == size:
                return Layout.WHOLE if found >= {_IR_VERSION, _GRAPH} else Layout.OTHER
            number, kind = divmod(_varint(file), 8)
            if _FIELDS.get(number) != kind:
                return Layout.OTHER
            found.add(number)
            value = _varint(file)
            if kind == _LENGTH:
                if file.tell() + value > size:
                    return Layout.CUT_SHORT if number == _GRAPH and _IR_VERSION in found else Layout.OTHER
                file.seek(value, 1)
    return Layout.OTHER


def file_of(path: Path) -> Path:
    """Return an ONNX file, or the only one in a folder."""
    if not path.is_dir():
        return path
    models = sorted(path.glob("*.onnx"))
    if len(models) != 1:
        raise UnsupportedModelError(f"{path.name}: a folder with {len(models)} ONNX models: name one")
    return models[0]


def _varint(file: IO[bytes]) -> int:
    """Return the next number; 0, which begins no field, where the file ends in one."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return 0
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    return value
