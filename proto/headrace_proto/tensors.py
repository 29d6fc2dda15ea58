"""Tensors on the wire: the protocol's datatypes, raw and typed contents, NumPy arrays.

Raw contents are flat, row-major and little-endian without padding; strings (BYTES) are a 4-byte
little-endian length and the bytes, one element after another. Typed contents are repeated fields,
where the narrow integers share the 32-bit ones. Everything that a sender can get wrong is a
ValueError whose text says what came and what was expected.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace_proto.v1.inference_pb2 import InferTensorContents

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype(np.uint8),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype(np.int8),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "BYTES": np.dtype(object),
    }
)
"""Wire names and the dtypes that they arrive as; BYTES elements are bytes objects."""

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

_STRING_KINDS: Final = "OSTU"
"""NumPy's kinds that travel as BYTES: objects, bytes, variable-width and fixed-width text."""

_CONTENTS_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool_contents",
        "UINT8": "uint_contents",
        "UINT16": "uint_contents",
        "UINT32": "uint_contents",
        "UINT64": "uint64_contents",
        "INT8": "int_contents",
        "INT16": "int_contents",
        "INT32": "int_contents",
        "INT64": "int64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        "BYTES": "bytes_contents",
    }
)

_MOST_DIMENSIONS: Final = 64
"""What NumPy allows."""

_MOST_ELEMENTS: Final = sys.maxsize // 8
"""What NumPy can address, of the widest dtype."""

_SLICE: Final = 1 << 14
"""Values of typed contents that are converted in one go; nothing else runs in the process meanwhile."""

_LENGTH: Final = struct.Struct("<I")
"""What stands before the bytes of a BYTES element."""


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the wire name of a NumPy dtype, in whichever byte order it is."""
    name = _NAMES.get(dtype)
    if name is not None:
        return name
    if dtype.kind in _STRING_KINDS:
        return "BYTES"
    name = _NAMES.get(dtype.newbyteorder("="))
    if name is None:
        raise ValueError(f"dtype {dtype} has no datatype in the protocol; known are {', '.join(DTYPES)}")
    return name


def encode_bytes(array: NDArray[Any]) -> bytes:
    """Return the raw contents of strings: bytes as they are, str as UTF-8, in row-major order.

    An element of another type is a TypeError.
    """
    parts: list[bytes] = []
    for index, element in enumerate(array.ravel().tolist()):
        if isinstance(element, str):
            data = element.encode()
        elif isinstance(element, bytes):
            data = element
        else:
            raise TypeError(f"BYTES element {index} is {type(element).__name__}, expected str or bytes")
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def decode_bytes(raw: bytes | memoryview, most: int | None = None) -> NDArray[np.object_]:
    """Return the strings in raw contents as a 1-D array of bytes objects.

    A small message can hold millions of strings; more than `most` are a ValueError before they are made.
    """
    data = bytes(raw)
    size = len(data)
    elements: list[bytes] = []
    start = 0
    while start < size:
        if len(elements) == most:
            raise ValueError(f"more than {most} BYTES elements came")
        first = start + _LENGTH.size
        if first > size:
            raise ValueError(
                f"BYTES element {len(elements)} is cut in its length: "
                f"{size - start} of {_LENGTH.size} bytes are left"
            )
        (length,) = _LENGTH.unpack_from(data, start)
        start = first + length
        if start > size:
            raise ValueError(
                f"BYTES element {len(elements)} is cut: its length is {length} bytes, {size - first} are left"
            )
        elements.append(data[first:start])
    return _object_array(elements)


def to_raw(array: NDArray[Any]) -> bytes:
    """Return the raw contents of an array of any layout, byte order and number of dimensions."""
    datatype = datatype_of(array.dtype)
    if datatype == "BYTES":
        return encode_bytes(array)
    return array.astype(DTYPES[datatype], copy=False).tobytes()


def from_raw(raw: bytes | memoryview, datatype: str, shape: Sequence[int]) -> NDArray[Any]:
    """Return the array in raw contents: a read-only view of `raw`, except for BYTES."""
    dtype = _dtype(datatype)
    count = _element_count(shape)
    if dtype.hasobject:
        return _strings_from_raw(raw, count, shape)
    if len(raw) != count * dtype.itemsize:
        raise ValueError(
            f"{datatype} of shape {list(shape)} takes {count * dtype.itemsize} bytes, got {len(raw)}"
        )
    array: NDArray[Any] = np.ndarray(shape, dtype, raw)
    if dtype.kind == "b":
        _check_bools(array)
    array.flags.writeable = False
    return array


def from_contents(contents: InferTensorContents, datatype: str, count: int | None = None) -> NDArray[Any]:
    """Return the values of typed contents as a 1-D array of the datatype's dtype.

    Converting many takes its time: another number of values than `count` is a ValueError before that.
    """
    dtype = _dtype(datatype)
    field = _CONTENTS_FIELDS.get(datatype)
    if field is None:
        raise ValueError(f"{datatype} is raw only: it has no typed contents, send it in raw_input_contents")
    for filled, _ in contents.ListFields():
        if filled.name != field:
            raise ValueError(f"contents of {datatype} belong in {field}, got {filled.name}")
    values = getattr(contents, field)
    if count is not None and len(values) != count:
        raise ValueError(f"{len(values)} values came in {field}, the shape has {count}")
    if dtype.hasobject:
        return _object_array(values)
    is_narrow = dtype.kind in "iu" and dtype.itemsize < 4
    array = np.empty(len(values), dtype)
    for start in range(0, len(values), _SLICE):
        some = values[start : start + _SLICE]
        converted = np.fromiter(some, np.int64 if is_narrow else dtype, len(some))
        array[start : start + _SLICE] = _narrowed(converted, datatype, start) if is_narrow else converted
    return array


def _dtype(datatype: str) -> np.dtype[Any]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise ValueError(f"unknown datatype {datatype[:40]!r}; known are {', '.join(DTYPES)}")
    return dtype


def _element_count(shape: Sequence[int]) -> int:
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"shape has {len(shape)} dimensions, at most {_MOST_DIMENSIONS} are possible")
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {list(shape)} has a negative dimension")
    count = math.prod(shape)
    # Without elements the byte count says nothing about the other dimensions, and NumPy multiplies them.
    if count == 0 and math.prod(filter(None, shape)) > _MOST_ELEMENTS:
        raise ValueError(f"shape {list(shape)} has dimensions larger than any array")
    return count


def _strings_from_raw(raw: bytes | memoryview, count: int, shape: Sequence[int]) -> NDArray[np.object_]:
    if len(raw) < count * _LENGTH.size:
        raise ValueError(
            f"BYTES of shape {list(shape)} takes at least {count * _LENGTH.size} bytes, got {len(raw)}"
        )
    elements = decode_bytes(raw)
    if len(elements) != count:
        raise ValueError(f"BYTES of shape {list(shape)} takes {count} elements, got {len(elements)}")
    return elements.reshape(shape)


def _check_bools(array: NDArray[Any]) -> None:
    """Refuse bytes other than 0 and 1: compilers assume that a bool is nothing else."""
    octets = array.reshape(-1).view(np.uint8)
    wrong = np.flatnonzero(octets > 1)
    if len(wrong):
        raise ValueError(f"BOOL element {wrong[0]} is {octets[wrong[0]]}, expected 0 or 1")


def _narrowed(values: NDArray[np.int64], datatype: str, first: int) -> NDArray[Any]:
    """Return 32-bit values, of which `first` came before, as the 8 or 16 bits that `datatype` has, uncut."""
    dtype = DTYPES[datatype]
    limits = np.iinfo(dtype)
    wrong = np.flatnonzero((values < limits.min) | (values > limits.max))
    if len(wrong):
        raise ValueError(
            f"{datatype} element {first + wrong[0]} is {values[wrong[0]]}, "
            f"expected {limits.min} to {limits.max}"
        )
    return values.astype(dtype)


def _object_array(elements: Sequence[bytes]) -> NDArray[np.object_]:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
