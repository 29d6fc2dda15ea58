"""gRPC by grpc.aio: every procedure of the protocol, under both of the service's names.

Messages come and go as bytes; the codec and the core do the rest. Answers arrive from engine threads
and wake the event loop once a batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import grpc
from grpc_channelz.v1.channelz import add_channelz_servicer

from headrace_proto.names import SERVICES
from headrace_server.core.service import Service
from headrace_server.listen_address import ListenAddress
from headrace_server.transport import reflection
from headrace_server.transport.aio_control import ControlCalls
from headrace_server.transport.aio_health import HealthService
from headrace_server.transport.aio_inference import Inference, InferenceLimits
from headrace_server.transport.connections import ConnectionOptions
from headrace_server.transport.control import Control, Procedure
from headrace_server.transport.health import Health
from headrace_server.transport.inflation import Inflation
from headrace_server.transport.listening import Listening
from headrace_server.transport.router import Handler, Router
from headrace_server.transport.shared_memory import Regions
from headrace_server.transport.shared_memory_control import SharedMemoryCalls

_logger = logging.getLogger(__name__)

_FAREWELL_SECONDS = 0.5
"""Longest wait for clients to leave: connections that are cut at once may lose answers on their way."""

_CALLS_BESIDE_INFERENCE = 1024
"""Room for health checks and questions while as many calls as allowed are being answered."""


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Where to listen, what connections are granted, and what is held for callers."""

    addresses: tuple[ListenAddress, ...]
    inference: InferenceLimits
    connections: ConnectionOptions = field(default_factory=ConnectionOptions)
    credentials: Callable[[], grpc.ServerCredentials] | None = None
    """Makes what an address speaks TLS with; none does without."""
    allow_client_shm: bool = False


class AioServer:
    """A gRPC server on the running event loop."""

    def __init__(
        self,
        service: Service,
        health: Health,
        options: TransportOptions,
        *,
        procedures: Mapping[str, Procedure] = MappingProxyType({}),
    ) -> None:
        """`procedures` are those that somebody else answers."""
        self._service = service
        self._listening = Listening(options.addresses, options.credentials)
        self._regions = Regions(allowed=options.allow_client_shm)
        self._inflation = Inflation(options.connections.max_message_bytes)
        self._inference = Inference(
            service, asyncio.get_running_loop(), options.inference, self._regions, self._inflation
        )
        most_calls = options.inference.max_calls + _CALLS_BESIDE_INFERENCE
        self._server = grpc.aio.server(
            options=[
                *options.connections.channel_arguments(),
                # Calls that are begun and never sent count too: one client must leave room for others.
                ("grpc.max_concurrent_streams", most_calls // 2),
            ],
            maximum_concurrent_rpcs=most_calls,
        )
        self._control = ControlCalls(self._inference.holdings, self._inflation)
        self._health = HealthService()
        health.add_listener(self._health.set)
        channelz = options.connections.channelz
        handlers = (
            self._handlers(procedures) | self._health.handlers() | reflection.handlers(channelz=channelz)
        )
        self._router = Router(handlers)
        self._server.add_generic_rpc_handlers((self._router,))
        if channelz:
            add_channelz_servicer(self._server)

    async def start(self) -> tuple[ListenAddress, ...]:
        """Listen, and return the addresses with the ports that they got.

        Raises PortError, and what making the credentials raises.
        """
        bound = self._listening.open(self._server)
        await self._server.start()
        return bound

    @property
    def open_calls(self) -> int:
        """Calls and streams that are being answered."""
        return self._inference.open

    @property
    def open_streams(self) -> int:
        """Streams alone."""
        return self._inference.open_streams

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests that are being answered, and of their answers."""
        return self._inference.in_flight_bytes

    async def stop(self, grace_seconds: float) -> None:
        """Answer what was accepted, refuse the rest, close; cut off what is left after `grace_seconds`."""
        self._service.stop_accepting()
        self._control.end()
        if not await self._inference.finish(grace_seconds):
            _logger.warning("%d calls were cut off after %.1f s", self._inference.open, grace_seconds)
        self._health.end()
        await self._router.close(self._server, _FAREWELL_SECONDS)
        self._listening.close()
        self._inference.close()
        self._inflation.close()

    def _handlers(self, further: Mapping[str, Procedure]) -> dict[str, Handler]:
        shared_memory = SharedMemoryCalls(self._regions).procedures()
        procedures = Control(self._service, {**shared_memory, **further}).procedures()
        handlers: dict[str, Handler] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._inference.infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._inference.stream),
        }
        for name, procedure in procedures.items():
            handlers[name] = grpc.unary_unary_rpc_method_handler(self._control.handler(procedure))
        return {f"/{service}/{name}": handler for service in SERVICES for name, handler in handlers.items()}
