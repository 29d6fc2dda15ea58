"""Calls in bytes: what a client of any language puts on the wire, and what it finds there.

Requests are messages of our own .proto, or bytes where a case wants what no message can say. Nothing here
knows Triton's client, or ours.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from headrace_proto.names import TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb

PATIENCE_SECONDS: Final = 20.0
_ANSWERS: Final[Mapping[str, type[Message]]] = MappingProxyType(
    {
        "/grpc.health.v1.Health/Check": health_pb2.HealthCheckResponse,
        "/grpc.health.v1.Health/Watch": health_pb2.HealthCheckResponse,
        **{
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": (
                reflection_pb2.ServerReflectionResponse
            )
            for version in ("v1alpha", "v1")
        },
    }
)

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: its answers (one for a unary call), its status, and the details beside it."""

    answers: Sequence[Any]
    code: grpc.StatusCode
    text: str
    details: tuple[Any, ...] = field(default=())
    """gRPC's standard error details, still packed."""

    @property
    def answer(self) -> Any:
        """The answer of a unary call."""
        (one,) = self.answers
        return one


class Wire:
    """One connection to the server in question."""

    def __init__(self, address: str, service: str = TRITON_SERVICE) -> None:
        """`service` is the name by which procedures are called that a row names without one."""
        self.address = address
        self._service = service
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        self._channel = grpc.insecure_channel(address, options=options)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def call(
        self,
        method: str,
        request: Message | bytes,
        *,
        metadata: Metadata = (),
        timeout_seconds: float = PATIENCE_SECONDS,
        compression: grpc.Compression | None = None,
    ) -> Outcome:
        """Make a unary call, and wait for its end."""
        return self.begin(
            method, request, metadata=metadata, timeout_seconds=timeout_seconds, compression=compression
        ).end()

    def begin(
        self,
        method: str,
        request: Message | bytes,
        *,
        metadata: Metadata = (),
        timeout_seconds: float = PATIENCE_SECONDS,
        compression: grpc.Compression | None = None,
    ) -> Pending:
        """Begin a unary call."""
        path = self._path_of(method)
        call = self._channel.unary_unary(path).future(
            _bytes_of(request), timeout=timeout_seconds, metadata=metadata, compression=compression
        )
        return Pending(call, path)

    def converse(
        self,
        method: str,
        requests: Iterable[Message | bytes],
        *,
        metadata: Metadata = (),
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> Outcome:
        """Send these requests on a stream, half close it, and read it to its end."""
        path = self._path_of(method)
        stream = self._channel.stream_stream(path)
        call = stream(map(_bytes_of, requests), timeout=timeout_seconds, metadata=metadata)
        return _read(call, path)

    def watch(self, method: str, request: Message, *, timeout_seconds: float = PATIENCE_SECONDS) -> Any:
        """Return the first answer of a stream that the server alone writes, and leave it."""
        path = self._path_of(method)
        call = self._channel.unary_stream(path)(_bytes_of(request), timeout=timeout_seconds)
        try:
            first = [_answer(path, next(call))]
        except grpc.RpcError:
            return Outcome([], call.code(), call.details() or "")
        call.cancel()
        return Outcome(first, grpc.StatusCode.OK, "")

    def open(self, *, metadata: Metadata = (), timeout_seconds: float = PATIENCE_SECONDS) -> Stream:
        """Open a stream of inference that is written to as the case goes on."""
        return Stream(self._channel, self._path_of("ModelStreamInfer"), metadata, timeout_seconds)

    def _path_of(self, method: str) -> str:
        return method if method.startswith("/") else f"/{self._service}/{method}"


class Pending:
    """A unary call that has begun."""

    def __init__(self, call: Any, path: str) -> None:
        self._call = call
        self._path = path

    def cancel(self) -> None:
        """Take it back."""
        self._call.cancel()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return bool(self._call.done())

    def end(self) -> Outcome:
        """Wait for its end."""
        try:
            answer = _answer(self._path, self._call.result())
        except grpc.FutureCancelledError:
            return Outcome([], grpc.StatusCode.CANCELLED, "")
        except grpc.RpcError as error:
            return Outcome([], error.code(), error.details() or "", _details(error.trailing_metadata()))
        return Outcome([answer], grpc.StatusCode.OK, "")


class Stream:
    """A stream of inference, written to and read from one message at a time."""

    def __init__(self, channel: grpc.Channel, path: str, metadata: Metadata, timeout_seconds: float) -> None:
        self._path = path
        self._written: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(self._path)(
            self._requests(), timeout=timeout_seconds, metadata=metadata
        )

    def write(self, request: Message | bytes) -> None:
        """Send one request."""
        self._written.put(_bytes_of(request))

    def read(self) -> Any:
        """Return the next answer."""
        return _answer(self._path, next(self._call))

    def cancel(self) -> None:
        """Leave, whatever is still to come."""
        self._call.cancel()
        self._written.put(None)

    def half_close(self) -> Outcome:
        """Say that no more requests come, and read to the end."""
        self._written.put(None)
        return _read(self._call, self._path)

    def _requests(self) -> Iterator[bytes]:
        while (request := self._written.get()) is not None:
            yield request


def _read(call: Any, path: str) -> Outcome:
    answers = []
    with contextlib.suppress(grpc.RpcError):  # its code is read below, as where it ended well
        answers.extend(_answer(path, data) for data in call)
    return Outcome(answers, call.code(), call.details() or "", _details(call.trailing_metadata()))


def _answer(path: str, data: bytes) -> Message:
    kind = _ANSWERS.get(path)
    if kind is None:
        kind = getattr(pb, path.rpartition("/")[2] + "Response")
    return kind.FromString(data)


def _bytes_of(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def _details(trailers: Sequence[tuple[str, str | bytes]] | None) -> tuple[Any, ...]:
    for key, value in trailers or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return tuple(status_pb2.Status.FromString(value).details)
    return ()
