"""What a gRPC error says: its code, its text, and when the server wants to be asked again.

The last is google.rpc.RetryInfo within google.rpc.Status in the trailing metadata. Its three nested
messages are read here from their bytes, which spares the client a dependency for one number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, cast

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from grpc import RpcError, StatusCode

from headrace.retry import Failure

STATUS_KEY: Final = "grpc-status-details-bin"
RETRY_INFO: Final = "google.rpc.RetryInfo"

_VARINT, _LENGTH_DELIMITED = 0, 2
_STATUS_DETAILS: Final = 3
_RETRY_DELAY: Final = 1


class _Status(Protocol):
    """What both kinds of gRPC errors have, blocking and asynchronous."""

    def code(self) -> StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def failure_of(error: RpcError) -> Failure:
    """Return the facts in what a gRPC call raised."""
    status = cast("_Status", error)
    code = status.code()
    message = status.details() or f"the server gave no reason ({code.name})"
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return Failure(code, message, _retry_after_seconds(status.trailing_metadata() or ()))
    return Failure(code, message)


def _retry_after_seconds(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    for key, value in metadata:
        if key == STATUS_KEY and isinstance(value, bytes):
            try:
                return _retry_info_seconds(value)
            except (DecodeError, ValueError):
                return None
    return None


def _retry_info_seconds(status: bytes) -> float | None:
    for number, detail in _submessages(status):
        if number != _STATUS_DETAILS:
            continue
        packed = Any.FromString(detail)
        if packed.TypeName() != RETRY_INFO:
            continue
        for field, delay in _submessages(packed.value):
            if field == _RETRY_DELAY:
                return max(Duration.FromString(delay).ToTimedelta().total_seconds(), 0.0)
    return None


def _submessages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and bytes of each length-delimited field; ValueError for a damaged message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        value, position = _varint(data, position)
        if tag & 7 == _VARINT:
            continue
        if tag & 7 != _LENGTH_DELIMITED or position + value > len(data):
            raise ValueError(f"damaged message: field {tag >> 3} at byte {position} of {len(data)}")
        yield tag >> 3, data[position : position + value]
        position += value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            break
        octet = data[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise ValueError(f"damaged message: no number ends at byte {position} of {len(data)}")
