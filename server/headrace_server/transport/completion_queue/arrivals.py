"""New calls: asked for ahead, given to their procedures, and kept while they are open.

While a stop tells the clients to leave, new unary calls are held: a client that waits for an answer sends
nothing that could meet a closed door.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final

import grpc

from headrace_server.transport.arrived import Arrived
from headrace_server.transport.completion_queue.calls import CoreCallBase, CoreUnaryCall, RefusedCall
from headrace_server.transport.completion_queue.core import CoreServer, Event, Queue
from headrace_server.transport.completion_queue.streams import CoreStreamCall
from headrace_server.transport.seam import Metadata, Route, Routes, Unary
from headrace_server.transport.status import Status

_ASKED_AHEAD: Final = 256
"""Calls that may arrive while the queue's thread is busy; the core lets further ones wait."""
_NO_METHOD: Final = Status(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
_TOO_MUCH_METADATA: Final = Status(
    grpc.StatusCode.RESOURCE_EXHAUSTED, "the call's metadata is larger than --max-metadata-bytes allows"
)
_ENTRY_BYTES: Final = 32
"""What HTTP/2 counts for an entry beside its name and value."""


class Arrivals:
    """The calls of one server. Events come on the queue's thread."""

    def __init__(
        self,
        server: CoreServer,
        queue: Queue,
        routes: Routes,
        arrived: Arrived[CoreCallBase],
        most_metadata_bytes: int,
    ) -> None:
        self._server = server
        self._most_metadata_bytes = most_metadata_bytes
        self._queue = queue
        self._routes: dict[bytes, Route] = {path.encode(): route for path, route in routes.items()}
        self._opened = arrived
        self._open = arrived.calls
        self._lock = threading.Lock()
        self._streams: set[CoreCallBase] = set()
        """Without those that were given up."""
        self.no_stream = threading.Event()
        """Whether there is none."""
        self.no_stream.set()
        self._is_holding = False
        self._last_change = 0.0
        self._held: list[CoreCallBase] = []

    def ask(self) -> None:
        """Ask for the first calls, each of which is followed by another one."""
        for _ in range(_ASKED_AHEAD):
            self._server.request_call(self._queue, self._queue, self._arrived)

    def hold(self) -> None:
        """Let new unary calls wait. Any thread."""
        with self._lock:
            self._last_change = time.monotonic()
            self._is_holding = True

    def quiet_for(self) -> float:
        """Return for how many seconds no call has come or ended, since holding began."""
        return time.monotonic() - self._last_change

    def let_go(self) -> None:
        """Begin those that wait, and hold no more. Any thread."""
        with self._lock:
            self._is_holding = False
            held, self._held = self._held, []
        for call in held:
            call.start()

    def abandon(self) -> None:
        """Keep the calls that are left from beginning anything; their queue is about to end."""
        for call in tuple(self._open):
            call.abandon()

    def closed(self, call: CoreCallBase) -> None:
        """Let go of a call that is over."""
        self._open.pop(call, None)
        if isinstance(call, CoreStreamCall):
            self.gave_up(call)
        if self._is_holding:
            self._last_change = time.monotonic()

    def gave_up(self, call: CoreCallBase) -> None:
        """Wait for a stream no more. Any thread."""
        with self._lock:
            self._streams.discard(call)
            if not self._streams:
                self.no_stream.set()

    def _arrived(self, event: Event) -> None:
        if not event.success:  # handed back by the server's shutdown
            return
        with contextlib.suppress(ValueError):  # the server is shutting down
            self._server.request_call(self._queue, self._queue, self._arrived)
        call = self._made(event)
        self._open[call] = self._opened.looks
        if isinstance(call, CoreStreamCall):
            with self._lock:
                self._streams.add(call)
                self.no_stream.clear()
        elif self._is_holding:
            with self._lock:
                if self._is_holding:
                    self._last_change = time.monotonic()
                    self._held.append(call)
                    return
        call.start()

    def _made(self, event: Event) -> CoreCallBase:
        route = self._routes.get(event.call_details.method)
        if route is None:
            return RefusedCall(event, self, _NO_METHOD)
        if len(self._open) >= self._opened.most_calls:
            return RefusedCall(event, self, self._opened.refusal())
        # gRPC's core leaves this to the client until that has acknowledged its settings.
        if _size_bytes(event.invocation_metadata) > self._most_metadata_bytes:
            return RefusedCall(event, self, _TOO_MUCH_METADATA)
        if isinstance(route, Unary):
            return CoreUnaryCall(event, self, route.take)
        return CoreStreamCall(event, self, route.open)


def _size_bytes(metadata: Metadata) -> int:
    size_bytes = 0
    for key, value in metadata:
        size_bytes += len(key) + len(value) + _ENTRY_BYTES
    return size_bytes
