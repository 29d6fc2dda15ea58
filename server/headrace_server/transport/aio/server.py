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
from headrace_server.transport.aio.calls import AioUnaryCall, Context
from headrace_server.transport.aio.reactor import LoopReactor
from headrace_server.transport.aio.router import Handler, Router
from headrace_server.transport.aio.streams import AioStreamCall
from headrace_server.transport.control import Procedure
from headrace_server.transport.endpoint import Endpoint
from headrace_server.transport.health import Health
from headrace_server.transport.listening import Listening
from headrace_server.transport.options import TransportOptions
from headrace_server.transport.seam import Route, Streaming, Unary

_logger = logging.getLogger(__name__)

_FAREWELL_SECONDS: Final = 0.5
"""Longest wait for clients to leave: connections that are cut at once may lose answers on their way."""


class AioServer:
    """Serves with grpc.aio."""

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
        self._endpoint = Endpoint(service, health, options, LoopReactor(self._loop), procedures)
        self._inference = self._endpoint.inference
        self._listening = Listening(options.addresses, options.credentials)
        self._server = grpc.aio.server(
            options=options.channel_arguments(), maximum_concurrent_rpcs=options.most_calls
        )
        handlers = {path: self._handler(route) for path, route in self._endpoint.routes.items()}
        self._router = Router(handlers)
        self._server.add_generic_rpc_handlers((self._router,))

    async def start(self) -> tuple[ListenAddress, ...]:
        """Listen, and return the addresses with the ports that they got.

        Raises PortError, and what making the credentials raises.
        """
        bound = self._listening.open(self._bind)
        await self._server.start()
        return bound

    @property
    def open_calls(self) -> int:
        """Calls and streams that are being answered."""
        return self._inference.open_calls.calls

    @property
    def open_streams(self) -> int:
        """Streams alone."""
        return self._inference.open_streams

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests that are being answered, and of their answers."""
        return self._inference.holdings.size_bytes

    async def stop(self, grace_seconds: float) -> None:
        """Answer what was accepted, refuse the rest, close; cut off what is left after `grace_seconds`."""
        self._endpoint.leave()
        self._endpoint.refuse()
        self._inference.finish()
        if not await self._finished(grace_seconds):
            _logger.warning("%d calls were cut off after %.1f s", self.open_calls, grace_seconds)
        self._endpoint.end_watches()
        await self._router.close(self._server, _FAREWELL_SECONDS)
        self._listening.close()
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

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            return 0

    def _handler(self, route: Route) -> Handler:
        if isinstance(route, Unary):
            return grpc.unary_unary_rpc_method_handler(self._unary(route))
        return grpc.stream_stream_rpc_method_handler(self._streaming(route))

    def _unary(self, route: Unary) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(message: bytes, context: Context) -> bytes:
            return await AioUnaryCall(context, self._loop).run(route.take, message)

        return answer

    def _streaming(self, route: Streaming) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        async def talk(messages: AsyncIterator[bytes], context: Context) -> None:
            await AioStreamCall(context).run(route.open, messages)

        return talk
