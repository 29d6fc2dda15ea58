"""What a gRPC error says: its code, its text, why, and when the server wants to be asked again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, cast

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import RpcError, StatusCode

from headrace.handshake import explained
from headrace.retry import NO_REASON, Failure

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where gRPC carries a google.rpc.Status in the trailing metadata."""

DOMAIN: Final = "headrace"
"""Whose reasons are understood: other servers may mean something else by the same word."""

TOO_LARGE: Final = "larger than max"
"""How gRPC's text differs for a message over the limit, which has the status of an overload."""

CONNECTION_LOST: Final = "Internal error from Core"
"""What grpc.aio says where a stream's connection broke while it was being written to."""


class Ended(Protocol):
    """What both kinds of gRPC errors have, blocking and asynchronous."""

    def code(self) -> StatusCode:
        """Return the status."""

    def details(self) -> str | None:
        """Return the server's words, or gRPC's."""

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return what the server said beside them."""


def failure_of(error: RpcError | Ended, *, is_secure: bool) -> Failure:
    """Return the facts in what a gRPC call raised; `is_secure` says whether TLS was to be spoken."""
    ended = cast("Ended", error)
    code = ended.code()
    message = explained(ended.details() or NO_REASON, is_secure=is_secure)
    if code is StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE in message:
        return Failure(StatusCode.INVALID_ARGUMENT, message, too_large=True)
    if code is StatusCode.INTERNAL and message == CONNECTION_LOST:
        return Failure(StatusCode.UNAVAILABLE, message)
    if code in (StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE):
        seconds, reason = _advice(_details(ended.trailing_metadata() or ()))
        return Failure(code, message, seconds, reason=reason)
    return Failure(code, message)


def _details(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            return value
    return b""


def _advice(details: bytes) -> tuple[float | None, str]:
    """Return when to ask again, None if it is not said, and the server's reason, or ""."""
    seconds: float | None = None
    reason = ""
    retry, error = RetryInfo(), ErrorInfo()
    try:
        for detail in Status.FromString(details).details:
            if detail.Unpack(retry):
                seconds = max(retry.retry_delay.ToNanoseconds() / 1e9, 0.0)
            elif detail.Unpack(error) and error.domain == DOMAIN:
                reason = error.reason
    except DecodeError:  # advice that cannot be read is no advice
        return None, ""
    return seconds, reason
