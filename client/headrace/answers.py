"""The bytes of answers to arrays.

An answer says the same of its outputs again and again: their names, dtypes and shapes. So it is parted
from its tensors and its id without a message object, what remains is read by protobuf once and then
remembered, and the arrays are views of the bytes that came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from grpc import StatusCode
from numpy.typing import NDArray

from headrace.errors import RequestFailed
from headrace_proto import tensors
from headrace_proto.v1.inference_pb2 import InferTensorContents, ModelInferResponse

Arrays = dict[str, NDArray[Any]]

FINAL_PARAMETER: Final = "triton_final_response"
"""Where a stream's answer says whether its request gets no other one."""

ERROR_CODE_PARAMETER: Final = "error_code"
"""Where a stream's error answer carries the name of its gRPC status; other servers leave it out."""

_ID_TAG: Final = 0x1A
_RAW_OUTPUT_TAG: Final = 0x32
_OTHER_TAGS: Final = frozenset({0x0A, 0x12, 0x22, 0x2A})
"""The model's name and version, the parameters and the outputs: with those above all fields there are."""

_MOST_OF_ONE_BYTE: Final = 0x7F

_MOST_HEADS: Final = 1024
_LARGEST_HEAD: Final = 4096
"""How many heads are remembered, and up to how many bytes: larger ones carry values and do not come again."""


@dataclass(frozen=True, slots=True)
class Output:
    """What an answer says of one output.

    `size` is how many bytes its raw contents have; None where they must be read, and not just viewed.
    `contents` are its values, where the answer has them among what it says.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int | None
    contents: InferTensorContents | None


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer says beside its id and its tensors.

    `is_final`: whether its request gets no other one; None where the server does not tell.
    `error_code`: the name of the status that it ended with, "" where the server says none.
    """

    outputs: tuple[Output, ...]
    is_final: bool | None
    error_code: str


@dataclass(slots=True)
class Parted:
    """An answer: what it says beside its tensors, and where in `message` those lie, as (start, size)."""

    message: bytes
    id: str
    head: bytes
    raws: list[tuple[int, int]]


def part(message: bytes, start: int = 0) -> Parted:
    """Take apart the ModelInferResponse that a message has from `start` on; DecodeError if it is none."""
    try:
        return _part(message, start)
    except (IndexError, ValueError):  # fields that no server of the protocol sends, or not a message
        response = ModelInferResponse.FromString(message[start:])
        response.DiscardUnknownFields()
        return _part(response.SerializeToString(), 0)


def _part(message: bytes, start: int) -> Parted:
    kept: list[bytes] = []
    raws: list[tuple[int, int]] = []
    request_id = b""
    position, end = start, len(message)
    while position < end:
        begin = position
        tag = message[position]
        size = message[position + 1]
        position += 2
        if size > _MOST_OF_ONE_BYTE:
            size, position = length(message, position - 1)
        if tag == _RAW_OUTPUT_TAG:
            raws.append((position, size))
        elif tag == _ID_TAG:
            if request_id:  # the last one counts, and both must be text
                raise ValueError("two ids")
            request_id = message[position : position + size]
        elif tag in _OTHER_TAGS:
            kept.append(message[begin : position + size])
        else:
            raise ValueError(f"field {tag:#x}")
        position += size
    if position != end:
        raise ValueError("cut")
    return Parted(message, request_id.decode(), b"".join(kept), raws)


def length(message: bytes, position: int) -> tuple[int, int]:
    """Return the length that stands at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        group = message[position]
        position += 1
        value |= (group & 0x7F) << shift
        if group <= _MOST_OF_ONE_BYTE:
            return value, position
    raise ValueError("a length of more than ten bytes")


def head_of(answer: Parted) -> Head:
    """Return what an answer says beside its tensors; DecodeError if that is nothing."""
    return _remembered(answer.head) if len(answer.head) <= _LARGEST_HEAD else _read(answer.head)


def _read(head: bytes) -> Head:
    response = ModelInferResponse.FromString(head)
    final = response.parameters.get(FINAL_PARAMETER)
    code = response.parameters.get(ERROR_CODE_PARAMETER)
    outputs = tuple(
        Output(
            output.name,
            output.datatype,
            tuple(output.shape),
            dtype := tensors.DTYPES.get(output.datatype, np.dtype(object)),
            _size(dtype, output.shape),
            output.contents if output.HasField("contents") else None,
        )
        for output in response.outputs
    )
    return Head(
        outputs, None if final is None else final.bool_param, "" if code is None else code.string_param
    )


_remembered = lru_cache(_MOST_HEADS)(_read)


def _size(dtype: np.dtype[Any], shape: Any) -> int | None:
    if dtype.kind in "Ob" or not all(size > 0 for size in shape):
        return None
    size = dtype.itemsize
    for dimension in shape:
        size *= dimension
    return size


def decode_response(message: bytes) -> Arrays:
    """Return the outputs by name, as read-only views of the message where that is possible.

    An answer that contradicts itself is a RequestFailed with the code DATA_LOSS.
    """
    try:
        answer = part(message)
        return arrays_of(answer, head_of(answer))
    except DecodeError as error:
        raise unreadable(str(error)) from error


def arrays_of(answer: Parted, head: Head) -> Arrays:
    """Return the outputs of an answer; errors are those of `decode_response`."""
    raws = iter(answer.raws)
    arrays: Arrays = {}
    for output in head.outputs:
        try:
            if output.contents is not None:
                count = math.prod(output.shape)
                values = tensors.from_contents(output.contents, output.datatype, count)
                arrays[output.name] = values.reshape(output.shape)
                continue
            raw = next(raws, None)
            if raw is None:
                raise ValueError("it has no contents")  # noqa: TRY301 - named like the other faults
            arrays[output.name] = _array(answer.message, output, *raw)
        except ValueError as error:
            raise unreadable(f"output {output.name!r}: {error}") from error
    return arrays


def _array(message: bytes, output: Output, start: int, size: int) -> NDArray[Any]:
    if size == output.size:
        array: NDArray[Any] = np.ndarray(output.shape, output.dtype, message, start)
    else:
        array = tensors.from_raw(memoryview(message)[start : start + size], output.datatype, output.shape)
    if not array.flags.aligned:  # many libraries read such arrays slowly, and some not at all
        array = array.copy()
        array.flags.writeable = False
    return array


def unreadable(why: str) -> RequestFailed:
    """Return the error for an answer that contradicts itself."""
    return RequestFailed(f"the server's answer cannot be read: {why}", code=StatusCode.DATA_LOSS)
