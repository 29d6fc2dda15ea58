"""A gRPC server on the running event loop. Answers from engine threads wake the loop once a batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import grpc

from headrace_server.core.service import Service
from headrace_server.listen_address import ListenAddress
from headrace_server.transport.aio.calls import AioCall, AioUnaryCall, Context
from headrace_server.transport.aio.reactor import LoopReactor
from headrace_server.transport.aio.renewal import RenewedServer
from headrace_server.transport.aio.router import Handler, Router
from headrace_server.transport.aio.streams import AioStreamCall
from headrace_server.transport.arrived import Arrived
from headrace_server.transport.control import Procedure
from headrace_server.transport.crowding import Crowding
from headrace_server.transport.endpoint import Endpoint
from headrace_server.transport.health import Health
from headrace_server.transport.options import TransportOptions
from headrace_server.transport.seam import Route, Streaming, Unary
from headrace_server.transport.server import TransportServer

_logger = logging.getLogger(__name__)

_FAREWELL_SECONDS: Final = 0.5
"""Longest wait for clients to leave: connections that are cut at once may lose answers on their way."""


class AioServer(TransportServer):
    """Serves with grpc.aio."""

    name = "aio"

    def __init__(
        self,
        service: Service,
        health: Health,
        options: TransportOptions,
        *,
        procedures: Mapping[str, Procedure] = MappingProxyType({}),
    ) -> None:
        """`procedures` are those that somebody else answers."""
        self._loop = asyncio.get_running_loop()
        reactor = LoopReactor(self._loop)
        self._endpoint = Endpoint(service, health, options, reactor, procedures)
        super().__init__(self._endpoint.inference, Arrived[AioCall](reactor, options))
        self._crowding = Crowding(reactor, options.connections)
        handlers = {path: self._handler(route) for path, route in self._endpoint.routes.items()}
        self._router = Router(handlers)
        self._server = RenewedServer(options, self._router)

    async def start(self) -> tuple[ListenAddress, ...]:
        """Listen, and return the addresses with the ports that they got.

        Raises PortError, and what making the credentials raises.
        """
        bound = await self._server.start()
        self._arrived.watch()
        self._crowding.watch()
        return bound

    async def stop(self, grace_seconds: float) -> None:
        """Answer what was accepted, refuse the rest, close; cut off what is left after `grace_seconds`."""
        self._arrived.end()
        self._crowding.end()
        self._endpoint.leave()
        self._endpoint.refuse()
        self._inference.finish()
        if not await self._finished(grace_seconds):
            _logger.warning("%d calls were cut off after %.1f s", self.open_calls, grace_seconds)
        self._endpoint.end_watches()
        await self._router.close(self._server, _FAREWELL_SECONDS)
        self._endpoint.close()

    async def _finished(self, timeout_seconds: float) -> bool:
        """Wait for what was accepted; return whether all of it was answered in time."""
        idle = asyncio.Event()
        self._inference.open_calls.when_idle(idle.set)
        try:
            async with asyncio.timeout(timeout_seconds):
                await idle.wait()
        except TimeoutError:
            return False
        return True

    def _handler(self, route: Route) -> Handler:
        if isinstance(route, Unary):
            # As a stream of requests: else grpc.aio waits for the message, and nobody is told of the call.
            return grpc.stream_unary_rpc_method_handler(self._unary(route))
        return grpc.stream_stream_rpc_method_handler(self._streaming(route))

    def _unary(self, route: Unary) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]:
        async def answer(_: AsyncIterator[bytes], context: Context) -> bytes:
            call = AioUnaryCall(context, self._loop)
            await self._enter(call)
            return await call.run(route.take)

        return answer

    def _streaming(self, route: Streaming) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        async def talk(messages: AsyncIterator[bytes], context: Context) -> None:
            call = AioStreamCall(context)
            await self._enter(call)
            await call.run(route.open, messages)

        return talk

    async def _enter(self, call: AioCall) -> None:
        """Give the call its place until it is over, or end it."""
        calls = self._arrived.calls
        if len(calls) >= self._arrived.most_calls:
            await call.abort(self._arrived.refusal())
        calls[call] = self._arrived.looks
        call.when_over(calls.pop)
