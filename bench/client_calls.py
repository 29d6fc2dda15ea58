"""The ways of calling that `bench.client` compares: ours, and the generated stubs of grpcio.

Each keeps so many requests in flight as its task says, on one connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from threading import Semaphore
from typing import Any, Final, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from headrace import AsyncClient, Client, HeadraceError
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

_OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


@dataclass(frozen=True, slots=True)
class Task:
    """Which model of which server is asked, with what, and by how many requests at a time."""

    target: str
    model: str
    array: NDArray[np.float32]
    in_flight: int

    @property
    def message(self) -> pb.ModelInferRequest:
        """The request as the stubs send it."""
        message = pb.ModelInferRequest(model_name=self.model)
        message.inputs.add(name="x", datatype="FP32", shape=self.array.shape)
        message.raw_input_contents.append(self.array.tobytes())
        return message


class Session(Protocol):
    """A connection that is used for several runs."""

    def calls(self, count: int) -> None:
        """Make so many calls."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way of calling, and the stub that it stands beside."""

    name: str
    open: Callable[[Task], contextlib.AbstractContextManager[Session]]
    stub: Way | None = None


class _Threads:
    """Blocking calls, each in flight on a thread of its own."""

    def __init__(self, call: Callable[[], object], in_flight: int, threads: ThreadPoolExecutor) -> None:
        self._call = call
        self._in_flight = in_flight
        self._threads = threads

    def calls(self, count: int) -> None:
        if self._in_flight == 1:
            self._several(count)
            return
        share, rest = divmod(count, self._in_flight)
        shares = [share + (number < rest) for number in range(self._in_flight)]
        list(self._threads.map(self._several, shares))

    def _several(self, count: int) -> None:
        for _ in range(count):
            self._call()


class _Stream:
    """A blocking stream."""

    def __init__(self, run: Callable[[int], int]) -> None:
        self._run = run

    def calls(self, count: int) -> None:
        _check(self._run(count), count)


class _Loop:
    """Calls on an event loop."""

    def __init__(self, loop: asyncio.Runner, run: Callable[[int], Awaitable[int]]) -> None:
        self._loop = loop
        self._calls = run

    def calls(self, count: int) -> None:
        _check(self._loop.run(self._awaited(count)), count)

    async def _awaited(self, count: int) -> int:
        return await self._calls(count)


def _check(good: int, count: int) -> None:
    if good != count:
        raise RuntimeError(f"{good} of {count} calls were answered well")


@contextlib.contextmanager
def _stub(task: Task) -> Iterator[Session]:
    with grpc.insecure_channel(task.target, _OPTIONS) as channel, ThreadPoolExecutor(task.in_flight) as pool:
        infer, message = InferenceServiceStub(channel).ModelInfer, task.message
        yield _Threads(lambda: infer(message, timeout=30), task.in_flight, pool)


@contextlib.contextmanager
def _client(task: Task) -> Iterator[Session]:
    with Client(task.target) as client, ThreadPoolExecutor(task.in_flight) as pool:
        yield _Threads(lambda: client.infer(task.model, {"x": task.array}), task.in_flight, pool)


@contextlib.contextmanager
def _stub_stream(task: Task) -> Iterator[Session]:
    with grpc.insecure_channel(task.target, _OPTIONS) as channel:
        stream, message = InferenceServiceStub(channel).ModelStreamInfer, task.message

        def run(count: int) -> int:
            room = Semaphore(task.in_flight)

            def requests() -> Iterator[pb.ModelInferRequest]:
                for _ in range(count):
                    room.acquire()
                    yield message

            good = 0
            for answer in stream(requests()):
                good += not answer.error_message
                room.release()
            return good

        yield _Stream(run)


@contextlib.contextmanager
def _client_stream(task: Task) -> Iterator[Session]:
    with Client(task.target) as client:

        def run(count: int) -> int:
            requests = enumerate(repeat({"x": task.array}, count))
            outcomes = client.stream(requests, model=task.model, max_in_flight=task.in_flight)
            return sum(not isinstance(outcome, HeadraceError) for _, outcome in outcomes)

        yield _Stream(run)


async def _tasks(call: Callable[[], Awaitable[object]], in_flight: int, count: int) -> int:
    async def several(number: int) -> int:
        for _ in range(number):
            await call()
        return number

    share, rest = divmod(count, in_flight)
    done = await asyncio.gather(*(several(share + (number < rest)) for number in range(in_flight)))
    return sum(done)


@contextlib.contextmanager
def _aio_channel(task: Task) -> Iterator[tuple[asyncio.Runner, Any]]:
    async def connect() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(task.target, _OPTIONS)

    with asyncio.Runner() as loop:
        channel = loop.run(connect())
        try:
            yield loop, InferenceServiceStub(channel)
        finally:
            loop.run(channel.close())


@contextlib.contextmanager
def _aio_client(task: Task) -> Iterator[tuple[asyncio.Runner, AsyncClient]]:
    async def connect() -> AsyncClient:
        return AsyncClient(task.target)

    with asyncio.Runner() as loop:
        client = loop.run(connect())
        try:
            yield loop, client
        finally:
            loop.run(client.close())


@contextlib.contextmanager
def _aio_stub(task: Task) -> Iterator[Session]:
    with _aio_channel(task) as (loop, stub):
        message = task.message
        yield _Loop(
            loop, lambda count: _tasks(lambda: stub.ModelInfer(message, timeout=30), task.in_flight, count)
        )


@contextlib.contextmanager
def _aio(task: Task) -> Iterator[Session]:
    with _aio_client(task) as (loop, client):
        yield _Loop(
            loop,
            lambda count: _tasks(lambda: client.infer(task.model, {"x": task.array}), task.in_flight, count),
        )


@contextlib.contextmanager
def _aio_stub_stream(task: Task) -> Iterator[Session]:
    with _aio_channel(task) as (loop, stub):
        message = task.message

        async def run(count: int) -> int:
            room = asyncio.Semaphore(task.in_flight)

            async def requests() -> AsyncIterator[pb.ModelInferRequest]:
                for _ in range(count):
                    await room.acquire()
                    yield message

            good = 0
            async for answer in stub.ModelStreamInfer(requests()):
                good += not answer.error_message
                room.release()
            return good

        yield _Loop(loop, run)


@contextlib.contextmanager
def _aio_stream(task: Task) -> Iterator[Session]:
    with _aio_client(task) as (loop, client):

        async def run(count: int) -> int:
            requests = enumerate(repeat({"x": task.array}, count))
            outcomes = client.stream(requests, model=task.model, max_in_flight=task.in_flight)
            return sum([not isinstance(outcome, HeadraceError) async for _, outcome in outcomes])

        yield _Loop(loop, run)


_STUB: Final = Way("stub", _stub)
_STUB_STREAM: Final = Way("stub, stream", _stub_stream)
_AIO_STUB: Final = Way("stub, asyncio", _aio_stub)
_AIO_STUB_STREAM: Final = Way("stub, asyncio stream", _aio_stub_stream)

WAYS: Final = (
    _STUB,
    Way("Client.infer", _client, _STUB),
    _AIO_STUB,
    Way("AsyncClient.infer", _aio, _AIO_STUB),
    _STUB_STREAM,
    Way("Client.stream", _client_stream, _STUB_STREAM),
    _AIO_STUB_STREAM,
    Way("AsyncClient.stream", _aio_stream, _AIO_STUB_STREAM),
)
