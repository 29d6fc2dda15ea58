"""What is used of grpcio's `cygrpc`, with types, and the rules of each call.

A rule that is broken ends the process, or loses an event for good:

- No batch may be started after its queue's `shutdown`, so none may be after its call's close event.
- A call may have one receive and one send under way; `start_server_batch` returns a code otherwise, and no
  event comes for it.
- `request_call` raises ValueError after the server's `shutdown`.
- An event keeps its call, and so its connection: let go of it before the next `poll`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import grpc
from grpc._cython import cygrpc as _cygrpc  # type: ignore[attr-defined]  # it has no stubs

from headrace_server.transport.seam import Metadata


class Operation(Protocol):
    """One part of a batch."""


class Details(Protocol):
    """What a new call names."""

    method: bytes
    deadline: float
    """On the wall clock; far in the future if there is none."""


class CoreCall(Protocol):
    """A call in gRPC's core."""

    def start_server_batch(self, operations: Sequence[Operation], tag: Any) -> int:
        """Begin operations, and return 0 if an event will tell of their end; never blocks."""

    def cancel(self, error_code: int, details: bytes) -> int:
        """End the call with a status."""

    def peer(self) -> bytes:
        """Return the address of the client."""


class Event(Protocol):
    """Something that has happened; fields of other kinds of events are missing."""

    completion_type: int
    success: bool
    tag: Any
    call: CoreCall
    call_details: Details
    invocation_metadata: Metadata
    batch_operations: Sequence[Any]


class Queue(Protocol):
    """A completion queue."""

    def poll(self, deadline: float | None = None) -> Event:
        """Wait for the next event, until a moment on the wall clock; reads the sockets meanwhile."""

    def shutdown(self) -> None:
        """Let `poll` tell of the end once everything that was begun has ended."""


class CoreServer(Protocol):
    """A server in gRPC's core."""

    def register_completion_queue(self, queue: Queue) -> None:
        """Use this queue."""

    def add_http2_port(self, address: bytes, server_credentials: Any = None) -> int:
        """Listen; return the port, or 0 where that cannot be."""

    def start(self) -> None:
        """Begin to serve."""

    def request_call(self, call_queue: Queue, server_queue: Queue, tag: Any) -> None:
        """Ask for one new call."""

    def shutdown(self, queue: Queue, tag: Any) -> None:
        """Close the ports and tell clients to leave; the tag comes when the last connection has gone."""

    def cancel_all_calls(self) -> None:
        """Cut off what is left, after `shutdown`."""

    def destroy(self) -> None:
        """Let go of it, after the queue's end."""


queue: Final[Callable[[], Queue]] = _cygrpc.CompletionQueue
receive_message: Final[Callable[[int], Operation]] = _cygrpc.ReceiveMessageOperation
receive_close: Final[Callable[[int], Operation]] = _cygrpc.ReceiveCloseOnServerOperation
send_initial_metadata: Final[Callable[[Metadata, int], Operation]] = _cygrpc.SendInitialMetadataOperation
send_message: Final[Callable[[bytes, int], Operation]] = _cygrpc.SendMessageOperation
send_status: Final[Callable[[Metadata, int, bytes | str, int], Operation]] = (
    _cygrpc.SendStatusFromServerOperation
)
auth_context: Final[Callable[[CoreCall], dict[str | bytes, Sequence[bytes]]]] = _cygrpc.auth_context
QUEUE_SHUTDOWN: Final[int] = _cygrpc.CompletionType.queue_shutdown
QUEUE_TIMEOUT: Final[int] = _cygrpc.CompletionType.queue_timeout


def server(arguments: Sequence[tuple[str, int]]) -> CoreServer:
    """Make a server with these channel arguments."""
    made: CoreServer = _cygrpc.Server(tuple((key.encode(), value) for key, value in arguments), False)
    return made


def core_credentials(credentials: grpc.ServerCredentials | None) -> Any:
    """Return what `add_http2_port` takes."""
    return None if credentials is None else credentials._credentials  # type: ignore[attr-defined]  # private
