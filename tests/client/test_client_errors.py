from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

import headrace
from headrace.errors import HeadraceError, error_for
from headrace.retry import Failure, error_of
from headrace.status import failure_of as facts_of


def failure_of(error: grpc.RpcError) -> Failure:
    return facts_of(error, is_secure=False)


class Ended(grpc.RpcError):
    """What gRPC raises, as far as it is read."""

    def __init__(self, code: StatusCode, details: str | None, metadata: Iterable[Any] | None = ()) -> None:
        self._ended = code, details, metadata

    def code(self) -> StatusCode:
        return self._ended[0]

    def details(self) -> str | None:
        return self._ended[1]

    def trailing_metadata(self) -> Iterable[Any] | None:
        return self._ended[2]


def retry_info(seconds: int = 0, nanos: int = 0) -> bytes:
    info = RetryInfo()
    info.retry_delay.seconds = seconds
    info.retry_delay.nanos = nanos
    status = Status(code=8)
    status.details.add().Pack(ErrorInfo(reason="FULL"))
    status.details.add().Pack(info)
    return status.SerializeToString()


def without_retry_info() -> bytes:
    status = Status(code=8)
    status.details.add().Pack(ErrorInfo(reason="FULL"))
    return status.SerializeToString()


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ([("grpc-status-details-bin", retry_info(2, 500_000_000))], 2.5),
        ([("other", "x"), ("grpc-status-details-bin", retry_info(0, 1_000_000))], 0.001),
        ([("grpc-status-details-bin", retry_info(-3))], 0.0),
        ([("grpc-status-details-bin", without_retry_info())], None),
        ([("grpc-status-details-bin", b"\xff\xff\xff")], None),
        ([("grpc-status-details-bin", retry_info(2)[:-3])], None),
        ([("grpc-status-details-bin", "text")], None),
        ([], None),
        (None, None),
    ],
)
def test_when_to_come_back(metadata: Any, seconds: float | None) -> None:
    failure = failure_of(Ended(StatusCode.RESOURCE_EXHAUSTED, "full", metadata))
    assert failure == Failure(StatusCode.RESOURCE_EXHAUSTED, "full", seconds)


@pytest.mark.parametrize(
    ("domain", "reason", "kind"),
    [
        ("headrace", "MODEL_NOT_READY", headrace.ModelNotReady),
        ("example.com", "MODEL_NOT_READY", headrace.Unavailable),
        ("headrace", "SOMETHING_NEW", headrace.Unavailable),
    ],
)
def test_why_it_is_unavailable(domain: str, reason: str, kind: type) -> None:
    status = Status(code=14)
    status.details.add().Pack(ErrorInfo(reason=reason, domain=domain))
    trailers = [("grpc-status-details-bin", status.SerializeToString())]
    failure = failure_of(Ended(StatusCode.UNAVAILABLE, "not now", trailers))
    assert type(error_of(failure, ["a:1"])) is kind
    assert failure.server_at_fault is (kind is headrace.Unavailable)


def test_a_message_over_the_limit_is_the_callers_mistake() -> None:
    text = "SERVER: Received message larger than max (12 vs. 4)"
    failure = failure_of(Ended(StatusCode.RESOURCE_EXHAUSTED, text))
    assert failure == Failure(StatusCode.INVALID_ARGUMENT, text, too_large=True)


def test_a_connection_that_breaks_under_a_write_is_no_failed_engine() -> None:
    failure = failure_of(Ended(StatusCode.INTERNAL, "Internal error from Core"))
    assert failure.code is StatusCode.UNAVAILABLE
    assert failure.server_at_fault
    assert failure_of(Ended(StatusCode.INTERNAL, "the engine failed")).code is StatusCode.INTERNAL


@pytest.mark.parametrize("details", [None, ""])
def test_an_error_always_has_a_text(details: str | None) -> None:
    assert failure_of(Ended(StatusCode.INTERNAL, details)).message == "the server gave no reason"


@pytest.mark.parametrize("code", StatusCode)
def test_every_code_has_its_error(code: StatusCode) -> None:
    error = error_for(code, "why", endpoint="h:1", attempts=2)
    assert isinstance(error, HeadraceError)
    assert (error.code, error.endpoint, error.attempts) == (code, "h:1", 2)
    assert str(error) == f"why [{code.name} from h:1 after 2 attempts]"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (StatusCode.INVALID_ARGUMENT, headrace.InvalidInput),
        (StatusCode.OUT_OF_RANGE, headrace.InvalidInput),
        (StatusCode.NOT_FOUND, headrace.ModelNotFound),
        (StatusCode.UNAVAILABLE, headrace.Unavailable),
        (StatusCode.RESOURCE_EXHAUSTED, headrace.Overloaded),
        (StatusCode.DEADLINE_EXCEEDED, headrace.DeadlineExceeded),
        (StatusCode.INTERNAL, headrace.EngineFailed),
        (StatusCode.UNIMPLEMENTED, headrace.NotSupported),
        (StatusCode.UNAUTHENTICATED, headrace.Unauthenticated),
        (StatusCode.PERMISSION_DENIED, headrace.Forbidden),
        (StatusCode.CANCELLED, headrace.Cancelled),
        (StatusCode.ABORTED, headrace.RequestFailed),
    ],
)
def test_which_error(code: StatusCode, kind: type[HeadraceError]) -> None:
    assert type(error_for(code, "")) is kind


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (headrace.InvalidInput("nothing was sent"), "nothing was sent"),
        (headrace.Unavailable("gone", endpoint="h:1", attempts=1), "gone [UNAVAILABLE from h:1]"),
    ],
)
def test_texts(error: HeadraceError, text: str) -> None:
    assert str(error) == text
