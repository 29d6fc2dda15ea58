"""What a gRPC error says: its code, its text, and when the server wants to be asked again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, cast

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import RpcError, StatusCode

from headrace.retry import Failure

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where gRPC carries a google.rpc.Status in the trailing metadata."""

TOO_LARGE: Final = "larger than max"
"""How gRPC's text differs for a message over the limit, which has the status of an overload."""


class _Ended(Protocol):
    """What both kinds of gRPC errors have, blocking and asynchronous."""

    def code(self) -> StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def failure_of(error: RpcError) -> Failure:
    """Return the facts in what a gRPC call raised."""
    ended = cast("_Ended", error)
    code = ended.code()
    message = ended.details() or "the server gave no reason"
    if code is StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE in message:
        return Failure(StatusCode.INVALID_ARGUMENT, message, too_large=True)
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return Failure(code, message, _retry_after_seconds(ended.trailing_metadata() or ()))
    return Failure(code, message)


def _retry_after_seconds(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            return _retry_delay_seconds(value)
    return None


def _retry_delay_seconds(details: bytes) -> float | None:
    info = RetryInfo()
    try:
        for detail in Status.FromString(details).details:
            if detail.Unpack(info):
                delay_ns: int = info.retry_delay.ToNanoseconds()
                return max(delay_ns / 1e9, 0.0)
    except DecodeError:  # advice that cannot be read is no advice
        return None
    return None
