"""The standard health service's procedures.

grpcio's own lets one watcher that reads nothing keep the state from being changed for everybody, forgets the
other watchers of a name once one of them leaves, and says SERVING before anything was told.
"""

from __future__ import annotations

import threading
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from headrace_server.errors import Overloaded
from headrace_server.transport.health import NOT_SERVING, UNKNOWN
from headrace_server.transport.messages import parse
from headrace_server.transport.seam import Reactor, Routes, StreamCall, Streaming, Unary, UnaryCall
from headrace_server.transport.status import Status, status_of

SERVICE: Final = "grpc.health.v1.Health"

_MOST_WATCHERS: Final = 512
_MOST_CHARACTERS: Final = 100
_STOPPING: Final = Status(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


class HealthProcedures:
    """Answers Check and Watch with what `set` was told last; "" is not serving until then."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._states: dict[str, int] = {"": NOT_SERVING}
        self._watchers: set[_Watcher] = set()
        self._lock = threading.Lock()
        self.is_over = False

    def routes(self) -> Routes:
        """Return what answers, by its path."""
        return {f"/{SERVICE}/Check": Unary(self._check), f"/{SERVICE}/Watch": Streaming(self._watch)}

    def set(self, name: str, state: int) -> None:
        """Tell a name's state from now on, or forget it if it is UNKNOWN; no watcher is waited for.

        Any thread may call it.
        """
        with self._lock:
            if state == UNKNOWN:
                self._states.pop(name, None)
            else:
                self._states[name] = state
            watchers = [watcher for watcher in self._watchers if watcher.name == name]
        for watcher in watchers:
            self._reactor.run(watcher.tell)

    def end(self) -> None:
        """End the watches, once each has told how things stand. Any thread."""
        with self._lock:
            self.is_over = True
            watchers = tuple(self._watchers)
        for watcher in watchers:
            self._reactor.run(watcher.tell)

    def cut(self) -> None:
        """End the watches that have not taken what they were told. Any thread."""
        with self._lock:
            watchers = tuple(self._watchers)
        for watcher in watchers:
            self._reactor.run(watcher.cut)

    def state(self, name: str) -> int:
        """Return the state of a name to be watched."""
        state: int = self._states.get(name, UNKNOWN)
        return state

    def leave(self, watcher: _Watcher) -> None:
        """Forget a watcher."""
        with self._lock:
            self._watchers.discard(watcher)

    def _check(self, call: UnaryCall, message: bytes) -> None:
        request = parse(health_pb2.HealthCheckRequest, message)
        state = self._states.get(request.service)
        if state is None:
            told = (
                f"there is no health of {request.service[:_MOST_CHARACTERS]!r}; "
                "'', a service, model:NAME or model:NAME:VERSION expected"
            )
            call.fail(Status(grpc.StatusCode.NOT_FOUND, told))
        else:
            call.answer(health_pb2.HealthCheckResponse(status=state).SerializeToString())

    def _watch(self, call: StreamCall) -> _Watcher:
        watcher = _Watcher(call, self)
        with self._lock:
            watcher.is_too_many = len(self._watchers) >= _MOST_WATCHERS
            if not watcher.is_too_many:
                self._watchers.add(watcher)
        return watcher


class _Watcher:
    """One Watch: told the state whenever it is another one than it was told last."""

    def __init__(self, call: StreamCall, health: HealthProcedures) -> None:
        self._call = call
        self._health = health
        self._lock = threading.Lock()
        self._told: int | None = None
        self._is_sending = False
        self._has_ended = False
        self.name: str | None = None
        self.is_too_many = False

    def begin(self) -> None:
        if self.is_too_many:
            told = f"{_MOST_WATCHERS} calls watch health, which is the limit"
            self._finish(status_of(Overloaded(told)))
        else:
            self._call.receive()

    def received(self, message: bytes | None) -> None:
        if message is None:
            self._finish(Status(grpc.StatusCode.UNIMPLEMENTED, "a watch needs one message"))
            return
        try:
            self.name = parse(health_pb2.HealthCheckRequest, message).service
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self._finish(status_of(error))
        else:
            self.tell()

    def sent(self) -> None:
        with self._lock:
            self._is_sending = False
        self.tell()

    def ended(self) -> None:
        with self._lock:
            self._has_ended = True
        self._health.leave(self)

    def tell(self) -> None:
        """Send the state, unless it has been told or another message is on its way; end with the server."""
        with self._lock:
            if self._has_ended or self._is_sending:
                return
            state = None if self.name is None else self._health.state(self.name)
            if state is not None and state != self._told:
                self._told = state
                self._is_sending = True
                self._call.send(health_pb2.HealthCheckResponse(status=state).SerializeToString())
                return
            is_over = self._health.is_over
        if is_over:
            self._finish(_STOPPING)

    def cut(self) -> None:
        """End the call though what was told has not left."""
        with self._lock:
            self._has_ended = True
            self._call.cut(_STOPPING)

    def _finish(self, status: Status) -> None:
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
            self._call.finish(status)
