"""What a call can end with, beside its answer.

Every error is a `HeadraceError` and says which server was asked last, and how often servers were
asked. A subclass exists for each failure that a caller would treat in its own way; they follow the
codes that a server answers with, so a server that is not Headrace is understood as well.
"""

from __future__ import annotations

from typing import ClassVar, Final

from grpc import StatusCode


class HeadraceError(Exception):
    """Base of every error of this package; its text is fit for a person to read.

    `code` is the gRPC status it stands for, `endpoint` the "host:port" that was asked last ("" when
    none was) and `attempts` how many times a server was asked (0: nothing was sent).
    """

    default_code: ClassVar[StatusCode] = StatusCode.UNKNOWN

    def __init__(
        self, message: str, *, code: StatusCode | None = None, endpoint: str = "", attempts: int = 0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.endpoint = endpoint
        self.attempts = attempts

    def __str__(self) -> str:
        if not self.endpoint:
            return self.message
        times = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{self.message} [{self.code.name} from {self.endpoint}{times}]"


class ClientClosed(HeadraceError):
    """The client was closed before or during the call."""

    default_code = StatusCode.CANCELLED


class InvalidInput(HeadraceError):
    """The request is wrong: the text names the tensor or field, what came, and what was expected."""

    default_code = StatusCode.INVALID_ARGUMENT


class ModelNotFound(HeadraceError):
    """No such model, or no such version of it."""

    default_code = StatusCode.NOT_FOUND


class Unavailable(HeadraceError):
    """No server could take the call: none is known or reachable, or those that are, are stopping."""

    default_code = StatusCode.UNAVAILABLE


class ModelNotReady(Unavailable):
    """The servers answer, and the model is being loaded or could not be: other models may be well."""


class Overloaded(HeadraceError):
    """The model's queue is full; `retry_after_seconds` is the server's advice, or None without one."""

    default_code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        endpoint: str = "",
        attempts: int = 0,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, code=code, endpoint=endpoint, attempts=attempts)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(HeadraceError):
    """There was no answer within the call's time."""

    default_code = StatusCode.DEADLINE_EXCEEDED


class EngineFailed(HeadraceError):
    """The server failed while it ran the request; its text carries an id that finds it in the log."""

    default_code = StatusCode.INTERNAL


class NotSupported(HeadraceError):
    """The server does not have this feature: the text names it."""

    default_code = StatusCode.UNIMPLEMENTED


class Unauthenticated(HeadraceError):
    """The server does not know who is calling."""

    default_code = StatusCode.UNAUTHENTICATED


class Forbidden(HeadraceError):
    """The server knows the caller and refuses the call."""

    default_code = StatusCode.PERMISSION_DENIED


class Cancelled(HeadraceError):
    """The server gave the call up, and no other one could be asked."""

    default_code = StatusCode.CANCELLED


class RequestFailed(HeadraceError):
    """The server answered with a failure of no kind that is known here; `code` says which."""


MODEL_NOT_READY: Final = "MODEL_NOT_READY"
"""The reason by which a server tells that one model cannot be asked, not that the server cannot."""

_BY_CODE: dict[StatusCode, type[HeadraceError]] = {
    StatusCode.OUT_OF_RANGE: InvalidInput,
    **{
        kind.default_code: kind
        for kind in (
            InvalidInput,
            ModelNotFound,
            Unavailable,
            Overloaded,
            DeadlineExceeded,
            EngineFailed,
            NotSupported,
            Unauthenticated,
            Forbidden,
            Cancelled,
        )
    },
}


def error_for(
    code: StatusCode,
    message: str,
    *,
    endpoint: str = "",
    attempts: int = 0,
    retry_after_seconds: float | None = None,
    reason: str = "",
) -> HeadraceError:
    """Return the error that stands for a gRPC status; `RequestFailed` for one without its own kind.

    `reason` is the server's own word for what the code alone does not say, as in `MODEL_NOT_READY`.
    """
    kind = _BY_CODE.get(code, RequestFailed)
    if kind is Unavailable and reason == MODEL_NOT_READY:
        kind = ModelNotReady
    if kind is Overloaded:
        return Overloaded(
            message,
            code=code,
            endpoint=endpoint,
            attempts=attempts,
            retry_after_seconds=retry_after_seconds,
        )
    return kind(message, code=code, endpoint=endpoint, attempts=attempts)
