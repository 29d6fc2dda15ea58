"""A wire by grpcio's own core, without the threads of its iterators; and whether that can be trusted.

`cygrpc` is private to grpcio. A stream that is iterated wakes a thread for each message that was sent, and
two for each that came; these operations are what such a stream is made of, and their events are taken by the
one thread that grpcio has for the calls of a channel.

The rules, which grpcio's iterators keep as well: `operate` says False, and no event comes, once nothing of a
call is under way; the function that takes a call's events returns True with the last one and never raises, or
that thread ends and with it all streams of the channel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from grpc import StatusCode
from grpc._cython import cygrpc as _cygrpc  # type: ignore[attr-defined]  # it has no stubs

from headrace.wire import Guard, Owner

logger = logging.getLogger(__name__)

_NO_FLAGS: Final = 0
_CODES: Final = {code.value[0]: code for code in StatusCode}


class Operation(Protocol):
    """One part of a batch."""

    def type(self) -> int:
        """Return which."""


class Event(Protocol):
    """The end of a batch."""

    batch_operations: Sequence[Any]


class CoreCall(Protocol):
    """A call in gRPC's core."""

    def operate(self, operations: Sequence[Operation], tag: Callable[[Event], bool]) -> bool:
        """Begin operations, and say whether an event will tell of their end."""

    def cancel(self, code: int, details: str) -> None:
        """End the call with a status."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended, as grpcio's errors say it."""

    _code: StatusCode
    _details: str | None
    _metadata: Iterable[tuple[str, str | bytes]] | None

    def code(self) -> StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str | None:
        """Return what the server said about it."""
        return self._details

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return what came with it."""
        return self._metadata


class CoreWire:
    """A stream whose events are taken on grpcio's own thread for the channel."""

    def __init__(
        self, method: grpc.StreamStreamMultiCallable[bytes, bytes], lock: Guard, owner: Owner
    ) -> None:
        """Begin the stream, with the lock held; ValueError if the channel is closed."""
        self._lock = lock
        self._owner = owner
        self._status: Status | None = None
        first = (
            (
                _cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
                _cygrpc.ReceiveStatusOnClientOperation(_NO_FLAGS),
            ),
            (_cygrpc.ReceiveInitialMetadataOperation(_NO_FLAGS),),
        )
        self._due = len(first)
        self._call = _begin(method, first, self._happened)

    def send(self, message: bytes) -> None:
        """Begin to send a message."""
        self._operate(_cygrpc.SendMessageOperation(message, _NO_FLAGS))

    def finish(self) -> None:
        """Send nothing more."""
        self._operate(_cygrpc.SendCloseFromClientOperation(_NO_FLAGS))

    def receive(self) -> None:
        """Ask for the next message."""
        self._operate(_cygrpc.ReceiveMessageOperation(_NO_FLAGS))

    def cancel(self) -> None:
        """End the stream now."""
        self._call.cancel(StatusCode.CANCELLED.value[0], "the stream is not wanted any more")

    def _operate(self, operation: Operation) -> None:
        self._due += self._call.operate((operation,), self._happened)

    def _happened(self, event: Event) -> bool:
        """Take the end of a batch; say whether it was the call's last."""
        with self._lock:
            self._due -= 1
            over = self._due == 0
            for operation in event.batch_operations:
                self._guard(self._take, operation)
        if over:
            self._guard(self._owner.ended, self._status)
        return over

    def _guard(self, act: Callable[[Any], None], argument: Any) -> None:
        """Do what might fail, so that nothing is raised here."""
        try:
            act(argument)
        except Exception:
            logger.exception("a stream ends for a fault of this client")
            self.cancel()

    def _take(self, operation: Any) -> None:
        kind = operation.type()
        if kind == _RECEIVE_MESSAGE:
            message = operation.message()
            if message is not None:
                self._owner.received(message)
        elif kind == _SEND_MESSAGE:
            self._owner.sent()
        elif kind == _RECEIVE_STATUS:
            code = _CODES.get(operation.code(), StatusCode.UNKNOWN)
            if code is not StatusCode.OK:
                self._status = Status(code, operation.details(), operation.trailing_metadata())


def _begin(
    method: Any, operations: Sequence[Sequence[Operation]], happened: Callable[[Event], bool]
) -> CoreCall:
    call: CoreCall = method._managed_call(
        _cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
        method._method,
        None,
        None,
        None,
        None,
        operations,
        happened,
        method._context,
        method._registered_call_handle,
    )
    return call


_RECEIVE_MESSAGE: Final[int] = _cygrpc.OperationType.receive_message
_SEND_MESSAGE: Final[int] = _cygrpc.OperationType.send_message
_RECEIVE_STATUS: Final[int] = _cygrpc.OperationType.receive_status_on_client
