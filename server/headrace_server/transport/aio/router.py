"""Which procedure a call is for; and how the last calls are told that a server has stopped.

When gRPC stops, it kills what it has read and not handed over, and what clients send until they have learned
of the stop: their callers get a bare CANCELLED, and hear neither why nor that they were not executed. Clients
that try again at once keep such calls coming, but for those that wait for an answer. So the last calls are
held while gRPC stops, and are refused when clients have learned of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import grpc

from headrace_server.errors import ShuttingDown
from headrace_server.transport.aio.calls import AioCall, Context
from headrace_server.transport.aio.renewal import RenewedServer
from headrace_server.transport.status import status_of

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_QUIET_SECONDS: Final = 0.1
_MOST_HOLDING_SECONDS: Final = 0.5
"""Callers that do not wait for answers are never quiet, and those that are held want to ask elsewhere."""
_FAREWELL_SECONDS: Final = 0.05
"""Time for clients of the same network to learn that gRPC has stopped."""


class Router(grpc.GenericRpcHandler):
    """Finds the procedure of each call by its path, `/service/name`."""

    def __init__(self, procedures: Mapping[str, Handler]) -> None:
        self._procedures = procedures
        self._last_arrival = 0.0
        self._is_holding = False
        self._released = asyncio.Event()
        self._held: Handler = grpc.stream_stream_rpc_method_handler(self._hold)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return what answers the call; None for a procedure that there is not."""
        self._last_arrival = time.monotonic()
        if self._is_holding:
            return self._held
        return self._procedures.get(handler_call_details.method)

    async def close(self, server: RenewedServer, grace_seconds: float) -> None:
        """Stop the server, and refuse what still comes; what is open has this time left to end."""
        self._is_holding = True
        await self._quiet()
        stopping = asyncio.ensure_future(server.stop(grace_seconds))
        await asyncio.wait([stopping], timeout=_FAREWELL_SECONDS)
        self._released.set()
        await stopping

    async def _quiet(self) -> None:
        """Return when no call has come for a moment."""
        give_up = time.monotonic() + _MOST_HOLDING_SECONDS
        while True:
            now = time.monotonic()
            until = min(self._last_arrival + _QUIET_SECONDS, give_up)
            if now >= until:
                return
            await asyncio.sleep(until - now)

    async def _hold(self, _: object, context: Context) -> None:
        await self._released.wait()
        await AioCall(context).abort(status_of(ShuttingDown("the server is stopping")))
