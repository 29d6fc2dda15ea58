"""The asynchronous client: `client.Client`, awaited."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from random import Random
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

import grpc
from grpc import StatusCode
from numpy.typing import NDArray

from headrace.aio_servers import AioServers
from headrace.aio_streaming import AioStreamCall, Requests
from headrace.answers import Arrays, decode_response
from headrace.cancelling import cancelled_by_caller
from headrace.channels import AioConnection
from headrace.config import (
    DEFAULT_KEEPALIVE_SECONDS,
    DEFAULT_RETRY,
    DEFAULT_TIMEOUT_SECONDS,
    Retry,
    Settings,
    Tls,
)
from headrace.errors import ClientClosed, HeadraceError
from headrace.exchange import Exchange, Key, Outcome
from headrace.lookup import Lookup
from headrace.messages import ModelMetadata, decode_metadata
from headrace.requests import Outputs, Parameters, RequestEncoder, encode_own
from headrace.retry import CONNECTION_CLOSED, Retries
from headrace.sequences import check_sequence
from headrace.status import failure_of
from headrace.stream_requests import Encoder
from headrace_proto.v1.inference_pb2 import ModelMetadataRequest, ServerReadyRequest

Answer = TypeVar("Answer")


class AsyncClient:
    """Predictions from the servers behind a target, on one event loop; the arguments are `Client`'s."""

    def __init__(
        self,
        target: str | Lookup,
        *,
        timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
        retry: Retry = DEFAULT_RETRY,
        tls: Tls | None = None,
        keepalive_seconds: float | None = DEFAULT_KEEPALIVE_SECONDS,
    ) -> None:
        self._settings = Settings(timeout_seconds, retry, tls, keepalive_seconds)
        self._servers = AioServers(target, self._settings)
        self._retries = Retries(retry, Random())
        self._requests = RequestEncoder()
        self._streams: WeakSet[AioStreamCall[Any]] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; calls and streams that are under way end with ClientClosed."""
        for stream in tuple(self._streams):
            stream.close()
        await self._servers.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        version: str = "",
        outputs: Outputs | None = None,
        parameters: Parameters | None = None,
        request_id: str = "",
        timeout_seconds: float | None = None,
    ) -> Arrays:
        """Return the model's outputs by name, as read-only arrays.

        `version` "" is the server's choice, `outputs` None is all of them; {"name": n} asks for an output
        as its n best classes. `parameters` are the server's ("priority", "sequence_id", …) or the
        model's own. `request_id` is for the server's traces.
        """
        own = encode_own(parameters, request_id)
        request = self._requests.encode(model, inputs, version, outputs, own)
        once = check_sequence(parameters, one_server=self._servers.is_one)
        return decode_response(await self._call(lambda link: link.infer, request, timeout_seconds, once=once))

    def stream(
        self,
        requests: Requests[Key],
        *,
        model: str,
        version: str = "",
        outputs: Outputs | None = None,
        parameters: Parameters | None = None,
        max_in_flight: int = 64,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Outcome[Key], None]:
        """Yield (key, outputs) or (key, error) for each (key, inputs) of `requests`, in completion order.

        As `Client.stream`; `requests` may be an asynchronous or a plain iterable, and a plain one must
        not block, since it runs on the event loop.
        """
        if not hasattr(requests, "__aiter__"):
            requests = iter(requests)
        timeout = self._settings.timeout_of_call(timeout_seconds)
        exchange: Exchange[Key] = Exchange(
            self._retries, max_in_flight=max_in_flight, timeout_seconds=timeout
        )
        encoder = Encoder(
            self._requests,
            model,
            version,
            outputs,
            parameters,
            timeout_seconds=timeout,
            one_server=self._servers.is_one,
        )
        stream = AioStreamCall(self._servers, exchange, encoder.encode)
        self._streams.add(stream)
        return stream.outcomes(requests)

    async def metadata(
        self, model: str, *, version: str = "", timeout_seconds: float | None = None
    ) -> ModelMetadata:
        """Return what a server says about a model: its versions, inputs and outputs."""
        request = ModelMetadataRequest(name=model, version=version)
        return decode_metadata(
            await self._call(lambda link: link.stub.ModelMetadata, request, timeout_seconds)
        )

    async def ready(self, *, timeout_seconds: float | None = None) -> bool:
        """Say whether there is a server that takes requests now."""
        request = ServerReadyRequest()
        try:
            return (await self._call(lambda link: link.stub.ServerReady, request, timeout_seconds)).ready
        except HeadraceError as error:
            if error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
                return False
            raise

    async def _call(
        self,
        method: Callable[[AioConnection], grpc.aio.UnaryUnaryMultiCallable[Any, Answer]],
        request: Any,
        timeout_seconds: float | None,
        *,
        once: bool = False,
    ) -> Answer:
        timeout = self._settings.timeout_of_call(timeout_seconds)
        deadline = math.inf if timeout is None else monotonic() + timeout
        tried: list[str] = []
        self._retries.budget.deposit()
        while True:
            slot = await self._servers.pick(tried, deadline)
            tried.append(slot.address)
            at_fault = False
            try:
                left = None if timeout is None else deadline - monotonic()
                return await method(slot.link)(request, timeout=left)
            except grpc.aio.AioRpcError as error:
                failure = failure_of(error, is_secure=slot.link.is_secure)
                at_fault = failure.server_at_fault
            except grpc.aio.UsageError:  # the connection was closed after it was picked
                failure = CONNECTION_CLOSED
            except asyncio.CancelledError:
                if cancelled_by_caller():
                    raise
                failure = CONNECTION_CLOSED
            finally:
                self._servers.done(slot, failed=at_fault)
            if self._servers.closed:
                raise ClientClosed("the client was closed during the call")
            delay = self._retries.delay_or_raise(
                failure,
                tried,
                left_seconds=deadline - monotonic(),
                elsewhere=self._servers.elsewhere(tried),
                may_repeat=not once,
            )
            if delay > 0:
                await self._servers.pause(delay)
