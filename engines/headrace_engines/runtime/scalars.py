"""Which tensors an ONNX file declares to be scalars.

ONNX Runtime tells the same of a scalar and of a tensor whose rank nobody told it. The file keeps them apart:
a scalar has a shape without dimensions, the other has no shape. So its fields are walked here, as far as
they lead to shapes; weights are passed over unread.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from headrace_engines import files
from headrace_engines.errors import ModelFileError

# Numbers of fields in onnx.proto.
_VALUES: Final = ((7,), (11, 12))  # ModelProto.graph, GraphProto.input and .output
_NAME: Final = ((1,),)  # ValueInfoProto.name
_SHAPE: Final = ((2,), (1,), (2,))  # ValueInfoProto.type, TypeProto.tensor_type, TypeProto.Tensor.shape
_DIM: Final = ((1,),)  # TensorShapeProto.dim

# How protobuf writes a field.
_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_BYTES: Final = {1: 8, 5: 4}
_MOST_VARINT_BYTES: Final = 10


def scalars(path: Path) -> frozenset[str]:
    """Return the names of the graph's inputs and outputs with a shape of no dimensions.

    Raises ModelFileError for a file that is no ONNX model.
    """
    try:
        with path.open("rb") as file:
            return frozenset(_scalars(file, path.stat().st_size))
    except OSError as error:
        raise files.unreadable(path, error) from error
    except ValueError as error:
        raise ModelFileError(f"{path.name}: not an ONNX model: {error}") from error


def _scalars(file: BinaryIO, size_bytes: int) -> Iterator[str]:
    for value_end in _found(file, size_bytes, _VALUES):
        start = file.tell()
        name = b"".join(file.read(end - file.tell()) for end in _found(file, value_end, _NAME))
        file.seek(start)
        ranks = [sum(1 for _ in _found(file, end, _DIM)) for end in _found(file, value_end, _SHAPE)]
        if ranks == [0]:
            yield name.decode()


def _found(file: BinaryIO, end: int, way: Sequence[Collection[int]]) -> Iterator[int]:
    """Yield where each field ends to which a way of numbers leads; the file stands at its beginning."""
    for number, field_end in _fields(file, end):
        if number not in way[0]:
            continue
        if len(way) == 1:
            yield field_end
        else:
            yield from _found(file, field_end, way[1:])


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Yield number and end of each field that holds bytes, from where the file stands. Raises ValueError."""
    while file.tell() < end:
        key = _varint(file)
        kind = key & 7
        if kind == _BYTES:
            field_end = _varint(file) + file.tell()
            if field_end > end:
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, field_end
            file.seek(field_end)
        elif kind == _VARINT:
            _varint(file)
        elif kind in _FIXED_BYTES:
            file.seek(_FIXED_BYTES[kind], os.SEEK_CUR)
        else:
            raise ValueError(f"there is no field of kind {kind}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for position in range(_MOST_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends inside of a number")
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    raise ValueError("a number does not end")
