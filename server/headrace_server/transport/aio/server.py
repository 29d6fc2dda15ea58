"""A gRPC server on the running event loop. Answers from engine threads wake the loop once a batch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import grpc

from headrace_server.core.service import Service
from headrace_server.listen_address import ListenAddress
from headrace_server.transport.aio.calls import AioUnaryCall, Context
from headrace_server.transport.aio.reactor import LoopReactor
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
_QUIET_SECONDS: Final = 0.1
_MOST_HEARING_SECONDS: Final = 1.0

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Router(grpc.GenericRpcHandler):
    def __init__(self, handlers: dict[str, _Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        return self._handlers.get(handler_call_details.method)


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
        self._last_arrival = 0.0
        self._server = grpc.aio.server(
            options=options.channel_arguments(), maximum_concurrent_rpcs=options.most_calls
        )
        handlers = {path: self._handler(route) for path, route in self._endpoint.routes.items()}
        self._server.add_generic_rpc_handlers((_Router(handlers),))

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
        return self._inference.open_calls.streams

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
        await self._hear_out()
        self._endpoint.end_watches()
        await self._server.stop(_FAREWELL_SECONDS)
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

    async def _hear_out(self) -> None:
        """Go on refusing until no call has come for a moment.

        Calls that gRPC has read, and not handed over, are cancelled when it stops: their callers would be
        told neither why, nor that they were not executed.
        """
        give_up = time.monotonic() + _MOST_HEARING_SECONDS
        while True:
            now = time.monotonic()
            quiet_at = self._last_arrival + _QUIET_SECONDS
            if now >= min(quiet_at, give_up):
                return
            await asyncio.sleep(min(quiet_at, give_up) - now)

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            return 0

    def _handler(self, route: Route) -> _Handler:
        if isinstance(route, Unary):
            return grpc.unary_unary_rpc_method_handler(self._unary(route))
        return grpc.stream_stream_rpc_method_handler(self._streaming(route))

    def _unary(self, route: Unary) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(message: bytes, context: Context) -> bytes:
            self._last_arrival = time.monotonic()
            return await AioUnaryCall(context, self._loop).run(route.take, message)

        return answer

    def _streaming(self, route: Streaming) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        async def talk(messages: AsyncIterator[bytes], context: Context) -> None:
            self._last_arrival = time.monotonic()
            await AioStreamCall(context).run(route.open, messages)

        return talk
