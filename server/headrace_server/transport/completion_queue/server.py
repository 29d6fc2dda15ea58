"""A gRPC server whose calls the queue's thread handles, and whichever thread has an answer answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType

import grpc

from headrace_server.core.service import Service
from headrace_server.listen_address import ListenAddress
from headrace_server.transport.arrived import Arrived
from headrace_server.transport.completion_queue import core
from headrace_server.transport.completion_queue.arrivals import Arrivals
from headrace_server.transport.completion_queue.calls import CoreCallBase
from headrace_server.transport.completion_queue.grace import Grace
from headrace_server.transport.completion_queue.queue import QueueThread
from headrace_server.transport.completion_queue.stop import Stop
from headrace_server.transport.control import Procedure
from headrace_server.transport.crowding import Crowding
from headrace_server.transport.endpoint import Endpoint
from headrace_server.transport.health import Health
from headrace_server.transport.listening import Listening
from headrace_server.transport.options import TransportOptions

_logger = logging.getLogger(__name__)


class CompletionQueueServer:
    """Serves with gRPC's C core."""

    name = "completion-queue"

    def __init__(
        self,
        service: Service,
        health: Health,
        options: TransportOptions,
        *,
        procedures: Mapping[str, Procedure] = MappingProxyType({}),
    ) -> None:
        """`procedures` are those that somebody else answers."""
        self._thread = QueueThread()
        self._endpoint = Endpoint(service, health, options, self._thread, procedures)
        self._inference = self._endpoint.inference
        self._listening = Listening(options.addresses, options.credentials)
        self._server = core.server(options.channel_arguments())
        self._server.register_completion_queue(self._thread.queue)
        self._arrived: Arrived[CoreCallBase] = Arrived(self._thread, options)
        self._crowding = Crowding(self._thread, options.connections)
        self._arrivals = Arrivals(
            self._server,
            self._thread.queue,
            self._endpoint.routes,
            self._arrived,
            options.connections.max_metadata_bytes,
        )
        self._stop: asyncio.Task[None] | None = None
        self._is_started = False

    async def start(self) -> tuple[ListenAddress, ...]:
        """Listen, and return the addresses with the ports that they got.

        Raises PortError, and what making the credentials raises.
        """
        bound = self._listening.open(self._bind)
        self._server.start()
        self._arrivals.ask()
        self._thread.start()
        self._arrived.watch()
        self._crowding.watch()
        self._is_started = True
        return bound

    @property
    def open_calls(self) -> int:
        """Calls and streams that are being answered."""
        return self._inference.open_calls.calls

    @property
    def unsent_calls(self) -> int:
        """Calls whose message has not come."""
        return self._arrived.unsent

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
        if self._stop is None:
            self._stop = asyncio.create_task(self._end(grace_seconds))
        await asyncio.shield(self._stop)

    async def _end(self, grace_seconds: float) -> None:
        self._arrived.end()
        self._crowding.end()
        if self._is_started:
            stop = Stop(self._server, self._thread, self._arrivals, self._endpoint)
            await asyncio.to_thread(stop.run, Grace(grace_seconds))
        self._listening.close()
        self._endpoint.close()

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        return self._server.add_http2_port(address.encode(), core.core_credentials(credentials))
