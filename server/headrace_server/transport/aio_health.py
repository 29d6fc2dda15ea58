"""The standard health service on grpc.aio.

grpcio's own lets one watcher that reads nothing keep the state from being changed for everybody, forgets the
other watchers of a name once one of them leaves, and says SERVING before anything was told.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health_pb2

from headrace_server.errors import Overloaded
from headrace_server.transport.health import NOT_SERVING, UNKNOWN
from headrace_server.transport.inflation import reading
from headrace_server.transport.refusal import Context, refuse

SERVICE: Final = "grpc.health.v1.Health"

_MOST_WATCHERS: Final = 512
_MOST_CHARACTERS: Final = 100

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class HealthService:
    """Answers Check and Watch with what `set` was told last; "" is not serving until then."""

    def __init__(self) -> None:
        self._states = {"": NOT_SERVING}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._watching = 0
        self._over = False

    def handlers(self) -> dict[str, _Handler]:
        """Return what answers, by its path."""
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        return {
            f"/{SERVICE}/Check": grpc.unary_unary_rpc_method_handler(
                self._check, reading(request.FromString), response.SerializeToString
            ),
            f"/{SERVICE}/Watch": grpc.unary_stream_rpc_method_handler(
                self._watch, reading(request.FromString), response.SerializeToString
            ),
        }

    async def set(self, name: str, state: int) -> None:
        """Tell a name's state from now on, or forget it if it is UNKNOWN; no watcher is waited for."""
        if state == UNKNOWN:
            self._states.pop(name, None)
        else:
            self._states[name] = state
        self._wake(name)

    def end(self) -> None:
        """End the watches, once each has told how things stand."""
        self._over = True
        for name in self._watchers:
            self._wake(name)

    async def _check(self, request: Any, context: Context) -> Any:
        state = self._states.get(request.service)
        if state is None:
            told = (
                f"there is no health of {request.service[:_MOST_CHARACTERS]!r}; "
                "'', a service, model:NAME or model:NAME:VERSION expected"
            )
            await context.abort(grpc.StatusCode.NOT_FOUND, told)
        return health_pb2.HealthCheckResponse(status=state)

    async def _watch(self, request: Any, context: Context) -> None:
        if self._watching >= _MOST_WATCHERS:
            await refuse(context, Overloaded(f"{self._watching} calls watch health, which is the limit"))
        changed = asyncio.Event()
        self._watchers.setdefault(request.service, set()).add(changed)
        self._watching += 1
        try:
            await self._tell(request.service, changed, context)
        finally:
            self._watching -= 1
            watchers = self._watchers[request.service]
            watchers.discard(changed)
            if not watchers:
                del self._watchers[request.service]
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    async def _tell(self, name: str, changed: asyncio.Event, context: Context) -> None:
        told = None
        while True:
            changed.clear()
            state = self._states.get(name, UNKNOWN)
            if state != told:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                told = state
            if self._over:
                return
            await changed.wait()

    def _wake(self, name: str) -> None:
        for changed in self._watchers.get(name, ()):
            changed.set()
