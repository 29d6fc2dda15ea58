"""The blocking client."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from random import Random
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

import grpc
from grpc import StatusCode
from numpy.typing import NDArray

from headrace.answers import Arrays, decode_response
from headrace.channels import Connection
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
from headrace.servers import Servers
from headrace.status import failure_of
from headrace.stream_requests import Encoder, Given
from headrace.streaming import StreamCall
from headrace_proto.v1.inference_pb2 import ModelMetadataRequest, ServerReadyRequest

Answer = TypeVar("Answer")


class Client:
    """Predictions from the servers behind a target; one client serves any number of threads.

    `target` is "host:port" or "unix:path" (several with commas), "dns:///host:port",
    "consul:///service?tag=…&model=…" or "consul://agent:8500/service"; an own `Lookup` is taken too.
    `timeout_seconds` is for a whole call with its retries (None: no limit). Without `tls` TLS is spoken
    with servers alone that are registered so, and their certificates are held against the system's
    authorities; with it TLS is spoken with all. A server is given up that leaves a ping unanswered, sent
    after `keepalive_seconds` of silence. Headrace permits that; many other servers, left as they come, end
    a connection with "too many pings" for it: give them None, no pings.

    Nothing is connected before the first call. Errors are `HeadraceError`s.
    """

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
        self._servers = Servers(target, self._settings)
        self._retries = Retries(retry, Random())
        self._requests = RequestEncoder()
        self._streams: WeakSet[StreamCall[Any]] = WeakSet()
        self._streams_lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; calls and streams that are under way end with ClientClosed."""
        self._servers.close()
        with self._streams_lock:
            streams = tuple(self._streams)
        for stream in streams:
            stream.close()

    def infer(
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
        return decode_response(self._call(lambda link: link.infer, request, timeout_seconds, once=once))

    def stream(
        self,
        requests: Iterable[tuple[Key, Given]],
        *,
        model: str,
        version: str = "",
        outputs: Outputs | None = None,
        parameters: Parameters | None = None,
        max_in_flight: int = 64,
        timeout_seconds: float | None = None,
    ) -> Generator[Outcome[Key], None, None]:
        """Yield (key, outputs) or (key, error) for each (key, inputs) of `requests`, in completion order.

        A request to a model that gives many responses has an outcome for each, or none at all.

        A request that fails is one error among the outcomes: it is yielded, not raised, and changes
        nothing for the others. `requests` may be endless and slow; it runs in a thread of its own, at
        most `max_in_flight` requests ahead of the outcomes taken. What it raises is raised here, after
        the outcomes of what it gave before. `timeout_seconds` is for each request, `parameters` are for
        all; a (key, Request(inputs, parameters)) has some of its own.
        """
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
        stream = StreamCall(self._servers, exchange, encoder.encode)
        with self._streams_lock:
            self._streams.add(stream)
        return stream.outcomes(iter(requests))

    def metadata(
        self, model: str, *, version: str = "", timeout_seconds: float | None = None
    ) -> ModelMetadata:
        """Return what a server says about a model: its versions, inputs and outputs."""
        request = ModelMetadataRequest(name=model, version=version)
        return decode_metadata(self._call(lambda link: link.stub.ModelMetadata, request, timeout_seconds))

    def ready(self, *, timeout_seconds: float | None = None) -> bool:
        """Say whether there is a server that takes requests now."""
        try:
            return self._call(lambda link: link.stub.ServerReady, ServerReadyRequest(), timeout_seconds).ready
        except HeadraceError as error:
            if error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
                return False
            raise

    def _call(
        self,
        method: Callable[[Connection], grpc.UnaryUnaryMultiCallable[Any, Answer]],
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
            slot = self._servers.pick(tried, deadline)
            tried.append(slot.address)
            at_fault = False
            try:
                left = None if timeout is None else deadline - monotonic()
                return method(slot.link)(request, timeout=left)
            except grpc.RpcError as error:
                failure = failure_of(error, is_secure=slot.link.is_secure)
                at_fault = failure.server_at_fault
            except ValueError:  # gRPC's, when the connection was closed after it was picked
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
                self._servers.pause(delay)
