"""gRPC by grpc.aio: every procedure of the protocol, under both of the service's names.

Messages come and go as bytes; the codec and the core do the rest. Answers arrive from engine threads
and wake the event loop once a batch.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from headrace_proto.names import SERVICES
from headrace_server.core.service import Service
from headrace_server.errors import InvalidInput
from headrace_server.transport.aio_inference import Inference, refuse
from headrace_server.transport.blocking import BlockingCalls
from headrace_server.transport.control import Control, Procedure
from headrace_server.transport.health import Health
from headrace_server.transport.reflection import add_reflection

_logger = logging.getLogger(__name__)

_FAREWELL_SECONDS = 0.5
"""Longest wait for clients to leave: connections that are cut at once may lose answers on their way. Only a
client that watches the server's health makes a stop last that long."""

_CALLS_BESIDE_INFERENCE = 1024
"""Room for health checks and questions while as many calls as allowed are being answered."""

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class PortError(Exception):
    """The address cannot be listened on; the text names it."""


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Where to listen, and what a client may ask of the connection."""

    host: str
    port: int
    max_message_bytes: int
    max_concurrent_calls: int
    max_stream_requests: int
    max_in_flight_bytes: int
    max_queue_size: int

    def channel_arguments(self) -> list[tuple[str, int]]:
        """Return the arguments for gRPC's core."""
        return [
            ("grpc.so_reuseport", 0),  # a taken port is an error
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 500),  # our client pings each 2 s
        ]


class _Router(grpc.GenericRpcHandler):
    def __init__(self, handlers: dict[str, _Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        return self._handlers.get(handler_call_details.method)


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
        self._options = options
        self._inference = Inference(
            service,
            asyncio.get_running_loop(),
            max_calls=options.max_concurrent_calls,
            max_stream_requests=options.max_stream_requests,
            max_in_flight_bytes=options.max_in_flight_bytes,
        )
        self._server = grpc.aio.server(
            options=options.channel_arguments(),
            maximum_concurrent_rpcs=options.max_concurrent_calls + _CALLS_BESIDE_INFERENCE,
        )
        self._blocking = BlockingCalls()
        self._server.add_generic_rpc_handlers((_Router(self._handlers(procedures)),))
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server)
        health.add_listener(self._set_health)

    async def start(self) -> int:
        """Listen, and return the port. Raises PortError."""
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        address = f"{host}:{self._options.port}"
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if not port:
            raise PortError(
                f"cannot listen on {address}: the port is taken, or the host does not resolve to an "
                "address of this machine"
            )
        await self._server.start()
        return port

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
        self._blocking.end()
        if not await self._inference.finish(grace_seconds):
            _logger.warning("%d calls were cut off after %.1f s", self._inference.open, grace_seconds)
        await self._inference.hear_out()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(_FAREWELL_SECONDS)

    async def _set_health(self, name: str, status: int) -> None:
        await self._health.set(name, status)

    def _handlers(self, further: Mapping[str, Procedure]) -> dict[str, _Handler]:
        procedures = Control(self._service, self._options.max_queue_size, further).procedures()
        handlers: dict[str, _Handler] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._inference.infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._inference.stream),
        }
        for name, procedure in procedures.items():
            handlers[name] = grpc.unary_unary_rpc_method_handler(_unary(procedure, self._blocking))
        return {f"/{service}/{name}": handler for service in SERVICES for name, handler in handlers.items()}


def _unary(procedure: Procedure, blocking: BlockingCalls) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            request = _parse(procedure, message)
            if procedure.blocks:
                answered = await blocking.run(functools.partial(procedure.answer, request))
            else:
                answered = procedure.answer(request)
            return answered.SerializeToString()
        except Exception as error:  # the edge: the table of statuses decides what leaves
            return await refuse(context, error)

    return answer


def _parse(procedure: Procedure, message: bytes) -> Any:
    try:
        return procedure.request.FromString(message)
    except DecodeError:
        name = procedure.request.DESCRIPTOR.name
        raise InvalidInput(f"the message is no {name}: its bytes cannot be parsed") from None
