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
from headrace_server.transport.server import TransportServer

_logger = logging.getLogger(__name__)


class CompletionQueueServer(TransportServer):
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
        arrived = Arrived[CoreCallBase](self._thread, options)
        super().__init__(self._endpoint.inference, arrived)
        self._listening = Listening(options.addresses, options.credentials)
        self._server = core.server(options.channel_arguments())
        self._server.register_completion_queue(self._thread.queue)
        self._crowding = Crowding(self._thread, options.connections)
        self._arrivals = Arrivals(
            self._server,
            self._thread.queue,
            self._endpoint.routes,
            arrived,
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
