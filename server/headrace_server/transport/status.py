"""The one table from what went wrong to what a protocol says about it."""

from __future__ import annotations

import logging
import secrets
from typing import Final, NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from headrace_server import errors

_logger = logging.getLogger(__name__)

_CODES: Final[dict[type[errors.InferenceError], grpc.StatusCode]] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MessageTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    errors.RegionNotFound: grpc.StatusCode.NOT_FOUND,
    errors.RegionExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unread: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineMissed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.EngineFailed: grpc.StatusCode.INTERNAL,
    errors.DeviceLost: grpc.StatusCode.UNAVAILABLE,
    errors.ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    errors.ControlDisabled: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotSupported: grpc.StatusCode.UNIMPLEMENTED,
}
_REASONS: Final[dict[type[BaseException], str]] = {errors.ModelNotReady: "MODEL_NOT_READY"}
"""UNAVAILABLE speaks of the server; here it is one model, and the others answer."""
_DOMAIN: Final = "headrace"
_MOST_CHARACTERS: Final = 500
"""Texts quote what came and travel as metadata; gRPC takes 8 KiB, and a character is up to 12 bytes there."""


class Status(NamedTuple):
    """How a call ends: gRPC's code, the text for the caller, and what helps a client to decide."""

    code: grpc.StatusCode
    text: str
    reason: str = ""
    """Set where the code alone would mislead a client about whose fault it is."""
    retry_after_seconds: float | None = None

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Return gRPC's standard error details as trailing metadata; none where there is nothing to add."""
        details: list[Message] = []
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain=_DOMAIN))
        if self.retry_after_seconds is not None:
            info = error_details_pb2.RetryInfo()
            info.retry_delay.FromNanoseconds(int(self.retry_after_seconds * 1e9))
            details.append(info)
        return (("grpc-status-details-bin", self._packed(details)),) if details else ()

    def _packed(self, details: list[Message]) -> bytes:
        status = status_pb2.Status(code=int(self.code.value[0]), message=self.text)
        for detail in details:
            status.details.add().Pack(detail)
        return bytes(status.SerializeToString())


def status_of(error: BaseException) -> Status:
    """Return what the caller is told. An error that is not ours is logged, and only its id leaves."""
    code = _CODES.get(type(error))  # type: ignore[arg-type]  # a lookup with any type is the question
    if code is None:
        error_id = secrets.token_hex(4)
        _logger.error("unexpected error %s", error_id, exc_info=error)
        return Status(grpc.StatusCode.INTERNAL, f"internal error {error_id}")
    text = _shortened(str(error))
    if isinstance(error, errors.Overloaded):
        return Status(code, text, retry_after_seconds=error.retry_after_seconds)
    return Status(code, text, _REASONS.get(type(error), ""))


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
