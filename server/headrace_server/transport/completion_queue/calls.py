"""Calls in gRPC's core, as procedures see them.

Each call has a lock, held over every start of a batch, and a mark that it is over: set by its close event,
which comes for every call, whatever ends it. No batch is begun after that, since the queue may be gone. The
answer of a call may so be given by any thread, at any time, and what comes too late does nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from headrace_server.core.request import NO_DEADLINE
from headrace_server.transport.arrived import NO_MESSAGE
from headrace_server.transport.completion_queue import core
from headrace_server.transport.completion_queue.core import Event, Operation
from headrace_server.transport.seam import Metadata, Peer
from headrace_server.transport.status import Status, status_of

_logger = logging.getLogger(__name__)

_OK: Final = 0
_INTERNAL: Final = 13
_NO_METADATA: Final[Metadata] = ()
_FAR_SECONDS: Final = 1e12
"""Deadlines beyond that are none."""

Tag = Callable[[Event], None]


class Keeper(Protocol):
    """Keeps calls alive while they are open."""

    def closed(self, call: CoreCallBase) -> None:
        """Let go of a call that is over."""

    def gave_up(self, call: CoreCallBase) -> None:
        """Expect no end of a stream: its client takes nothing, and so does not hear of it. Any thread."""


class CoreCallBase:
    """What all calls have in common."""

    __slots__ = ("__weakref__", "_call", "_is_over", "_keeper", "_lock", "deadline", "metadata")

    def __init__(self, event: Event, keeper: Keeper) -> None:
        self._call = event.call
        self._keeper = keeper
        self._lock = threading.Lock()
        self._is_over = False
        self.metadata = event.invocation_metadata
        deadline = event.call_details.deadline
        self.deadline = NO_DEADLINE if deadline > _FAR_SECONDS else deadline - time.time() + time.monotonic()

    def peer(self) -> Peer:
        """Return who calls."""
        identity = core.auth_context(self._call)
        named = {key.decode() if isinstance(key, bytes) else key: value for key, value in identity.items()}
        return Peer(self._call.peer().decode(), named)

    def start(self) -> None:
        """Begin: from here on the close event is sure to come."""
        with self._lock:
            self._batch((core.receive_close(0),), self._closed)
        self._begin()

    def abandon(self) -> None:
        """Begin no batch any more, because the queue is about to end."""
        with self._lock:
            self._is_over = True

    def is_unsent(self) -> bool:
        """Whether the call needs a message, and has none yet."""
        return False

    def is_untaken(self) -> bool:
        """Whether the call has its end, which has not left: the client opens no window for it."""
        return self._is_over

    def give_up(self, status: Status) -> None:
        """End the call with this status, if it is untaken."""
        if self._is_over:
            self._call.cancel(int(status.code.value[0]), status.text.encode())

    def _begin(self) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        """Do what is to be done once the call is over."""

    def _batch(self, operations: Sequence[Operation], tag: Tag | None) -> None:
        """Begin operations. The lock is held, and the call is not over."""
        code = self._call.start_server_batch(operations, tag)
        if code:  # no event will come for it
            _logger.error("gRPC refused a batch with %d", code)
            self._call.cancel(_INTERNAL, b"internal error")

    def _closed(self, _: Event) -> None:
        with self._lock:
            self._is_over = True
        self._keeper.closed(self)
        self._ended()


class CoreUnaryCall(CoreCallBase):
    """A call with one message and one answer."""

    __slots__ = ("_take", "on_end")

    def __init__(self, event: Event, keeper: Keeper, take: Callable[[CoreUnaryCall, bytes], None]) -> None:
        super().__init__(event, keeper)
        self._take: Callable[[CoreUnaryCall, bytes], None] | None = take
        """None once the message has come."""
        self.on_end: Callable[[], None] | None = None

    def answer(self, message: bytes) -> None:
        """End the call well."""
        self._end(
            (
                core.send_initial_metadata(_NO_METADATA, 0),
                core.send_message(message, 0),
                core.send_status(_NO_METADATA, _OK, b"", 0),
            )
        )

    def fail(self, status: Status) -> None:
        """End the call with this status."""
        self._end(ending(status))

    def is_unsent(self) -> bool:
        """Whether the message has not come, and is waited for."""
        return self._take is not None and not self._is_over

    def give_up(self, status: Status) -> None:
        """End the call with this status, if its message has not come or its end has not left."""
        super().give_up(status)
        if self._take is not None:
            self.fail(status)

    def _end(self, operations: Sequence[Operation]) -> None:
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._batch(operations, None)

    def _begin(self) -> None:
        with self._lock:
            if not self._is_over:
                self._batch((core.receive_message(0),), self._received)

    def _received(self, event: Event) -> None:
        message = event.batch_operations[0].message()
        take, self._take = self._take, None
        # None: there was none, or it was too large and the core has answered, or it is cancelled.
        if message is None or take is None:
            self.fail(NO_MESSAGE)
            return
        try:
            take(self, message)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self.fail(status_of(error))

    def _ended(self) -> None:
        on_end, self.on_end = self.on_end, None  # what it belongs to knows this call
        if on_end is not None:
            on_end()


class RefusedCall(CoreCallBase):
    """A call that is told a status; its message is never read."""

    __slots__ = ("_status",)

    def __init__(self, event: Event, keeper: Keeper, status: Status) -> None:
        super().__init__(event, keeper)
        self._status = status
        self.metadata = _NO_METADATA  # nobody reads it, and it may be what the call is refused for

    def _begin(self) -> None:
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._batch(ending(self._status), None)


def ending(status: Status) -> tuple[Operation, ...]:
    """Return what ends a call to which nothing was sent."""
    return (core.send_initial_metadata(_NO_METADATA, 0), status_operation(status))


def status_operation(status: Status) -> Operation:
    """Return what ends a call with this status."""
    return core.send_status(status.trailers(), int(status.code.value[0]), status.text, 0)
