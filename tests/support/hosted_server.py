"""A gRPC server in a thread of the test's process, over models that the test chose."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import grpc

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.service import Service
from headrace_server.listen_address import parse
from headrace_server.transport import choice
from headrace_server.transport.aio.server import AioServer
from headrace_server.transport.choice import TransportKind
from headrace_server.transport.connections import ConnectionOptions
from headrace_server.transport.health import Health, states_of
from headrace_server.transport.open_calls import InferenceLimits
from headrace_server.transport.options import TransportOptions
from headrace_server.transport.server import TransportServer

T = TypeVar("T")

_PATIENCE_SECONDS = 20.0

kind = TransportKind.AUTO
"""What serves, as the option --grpc-transport of the tests says."""


class HostedServer:
    """The transport on an event loop of its own."""

    def __init__(self, service: Service, transport: TransportKind | None = None, **options: Any) -> None:
        """`options` are fields of `InferenceLimits`, `ConnectionOptions` or `TransportOptions`, and further
        `procedures`."""
        self._kind = transport or kind
        self.service = service
        self.health = Health()
        self._options = options
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hosted-server", daemon=True)
        self._thread.start()
        self.transport: TransportServer
        self.addresses = self.run(self._start())
        self.address = self.addresses[0]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE_SECONDS)

    def show_health(self) -> None:
        """Tell the health service how the models stand."""
        states = states_of(ready=self.service.is_ready(), index=list(self.service.index()))
        self.health.show(states)

    def begin_stop(self, grace_seconds: float = _PATIENCE_SECONDS) -> Any:
        """Begin to stop; return the future of its end."""
        return asyncio.run_coroutine_threadsafe(self.transport.stop(grace_seconds), self._loop)

    def close(self, grace_seconds: float = 0.0) -> None:
        """Stop, and end the loop and its thread."""
        self.begin_stop(grace_seconds).result(_PATIENCE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_SECONDS)

    async def _start(self) -> list[str]:
        usual = {
            "max_message_bytes": 1 << 20, "max_calls": 10_000, "max_streams": 4096,
            "max_stream_requests": 64, "max_in_flight_bytes": 1 << 30,
        }  # fmt: skip
        given = {**usual, **self._options}

        def of(kind: Any) -> dict[str, Any]:
            return {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}

        procedures = given.pop("procedures", {})
        options = TransportOptions(
            addresses=tuple(map(parse, given.pop("listen", ["127.0.0.1:0"]))),
            inference=InferenceLimits(**of(InferenceLimits)),
            connections=ConnectionOptions(**of(ConnectionOptions)),
            **given,
        )
        kind = choice.chosen(self._kind)
        self.transport = choice.make(kind, self.service, self.health, options, procedures)
        return [str(address) for address in await self.transport.start()]


def told_at_a_stop(server: HostedServer) -> set[grpc.StatusCode]:
    """Return the codes that calls may end with which a stop did not accept.

    grpc.aio cancels those that it has received and not handed over.
    """
    cancelled = {grpc.StatusCode.CANCELLED} if isinstance(server.transport, AioServer) else set()
    return {grpc.StatusCode.UNAVAILABLE} | cancelled


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Return the kind of loop that the server runs on."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextmanager
def hosted(
    service: Service, transport: TransportKind | None = None, **options: Any
) -> Iterator[HostedServer]:
    """Serve while the block runs; health is shown as things stand at the start."""
    server = HostedServer(service, transport, **options)
    try:
        server.show_health()
        yield server
    finally:
        server.close()


@contextmanager
def connected(address: str) -> Iterator[InferenceServiceStub]:
    """Open a connection of its own, so that no test meets another's."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield InferenceServiceStub(channel)


def infer_request(
    model: str,
    *tensors: tuple[str, str, tuple[int, ...], bytes],
    id: str = "",  # noqa: A002  # the field's name in the protocol
    version: str = "",
    outputs: tuple[str, ...] = (),
    **parameters: int | bool | str,
) -> pb.ModelInferRequest:
    """Make a request with raw contents of (name, datatype, shape, bytes)."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, datatype, shape, data in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    for output in outputs:
        request.outputs.add(name=output)
    for key, value in parameters.items():
        parameter = request.parameters[key]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value
    return request


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that the other end does by itself, and that nothing announces."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < give_up, f"in vain: {what}"
        time.sleep(0.002)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until something holds that nothing announces."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0)
