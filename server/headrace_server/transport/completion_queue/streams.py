"""Streams in gRPC's core, as procedures see them: one receive and one send under way at a time."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Final

from headrace_server.transport.completion_queue import core
from headrace_server.transport.completion_queue.calls import CoreCallBase, Keeper, status_operation
from headrace_server.transport.completion_queue.core import Event, Operation
from headrace_server.transport.seam import Metadata, StreamCall, StreamProcedure
from headrace_server.transport.status import Status, status_of

_OK: Final = 0
_NO_METADATA: Final[Metadata] = ()


class CoreStreamCall(CoreCallBase):
    """A call with any number of messages each way."""

    __slots__ = ("_end", "_has_sent", "_is_ending", "_is_sending", "_open", "_procedure", "_waiting")

    def __init__(
        self, event: Event, keeper: Keeper, open_procedure: Callable[[StreamCall], StreamProcedure]
    ) -> None:
        super().__init__(event, keeper)
        self._open = open_procedure
        self._procedure: StreamProcedure | None = None
        self._waiting: collections.deque[bytes] = collections.deque()
        self._is_sending = False
        self._has_sent = False
        self._is_ending = False
        self._end: Operation | None = None

    def receive(self) -> None:
        """Ask for the next message."""
        with self._lock:
            if not self._is_over:
                self._batch((core.receive_message(0),), self._received)

    def send(self, message: bytes) -> None:
        """Send a message."""
        with self._lock:
            self._waiting.append(message)
            self._send_next()

    def finish(self, status: Status | None = None) -> None:
        """End the call after what was sent."""
        operation = (
            core.send_status(_NO_METADATA, _OK, b"", 0) if status is None else status_operation(status)
        )
        with self._lock:
            if not self._is_ending:
                self._is_ending = True
                self._end = operation
                self._send_next()

    def cut(self, status: Status) -> None:
        """End the call though what was sent has not left."""
        with self._lock:
            self._is_ending = True
            self._waiting.clear()
            if not self._is_over:
                self._is_over = True
                first = () if self._has_sent else (core.send_initial_metadata(_NO_METADATA, 0),)
                self._batch((*first, status_operation(status)), None)
        self._keeper.gave_up(self)

    def _begin(self) -> None:
        try:
            self._procedure = self._open(self)
            self._procedure.begin()
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self.finish(status_of(error))

    def _send_next(self) -> None:
        """Send what comes next, unless something is being sent. The lock is held."""
        if self._is_sending or self._is_over or not (self._waiting or self._end):
            return
        operations: Sequence[Operation] = (
            () if self._has_sent else (core.send_initial_metadata(_NO_METADATA, 0),)
        )
        self._has_sent = self._is_sending = True
        if self._waiting:
            self._batch((*operations, core.send_message(self._waiting.popleft(), 0)), self._sent)
        elif self._end is not None:
            self._is_over = True
            self._batch((*operations, self._end), None)

    def _sent(self, event: Event) -> None:
        if not event.success:  # the call is cancelled: its end comes
            return
        with self._lock:
            self._is_sending = False
            self._send_next()
        if self._procedure is not None:
            self._procedure.sent()

    def _received(self, event: Event) -> None:
        message = event.batch_operations[0].message()
        if self._procedure is None:
            return
        try:
            self._procedure.received(message)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self.finish(status_of(error))

    def _ended(self) -> None:
        procedure, self._procedure = self._procedure, None  # it knows this call
        if procedure is not None:
            procedure.ended()
