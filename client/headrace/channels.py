"""Connections to one server each: channel options, credentials, and the stub on top."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from headrace import core_support
from headrace.config import Settings, Tls
from headrace.endpoint import Endpoint
from headrace.wire import Guard, IteratedWire, Owner, Wire
from headrace_proto import socket_path
from headrace_proto.certificates import read_authorities, read_identity
from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:  # a type of the stub file alone, and one whose module is made of names that may be missing
    from headrace.core_wire import CoreWire
    from headrace_proto.v1.inference_pb2_grpc import InferenceServiceAsyncStub

logger = logging.getLogger(__name__)

Options = list[tuple[str, int | str]]

_INFER: Final = f"/{INFERENCE_SERVICE}/ModelInfer"
_STREAM: Final = f"/{INFERENCE_SERVICE}/ModelStreamInfer"

KEEPALIVE_TIMEOUT_MS: Final = 1000

_NEVER_MS: Final = 2**31 - 1
"""The largest number that an option of gRPC's takes, which means never."""

CONNECT_TIMEOUT_MS: Final = 1000
"""How long an attempt to connect may take: a host that is gone answers nothing at all, and gRPC would
wait 20 s for it."""

MAX_RECONNECT_BACKOFF_MS: Final = 2000


def _chosen(endpoint: Endpoint, given: grpc.ChannelCredentials | None) -> grpc.ChannelCredentials | None:
    return grpc.ssl_channel_credentials() if given is None and endpoint.tls else given


class Connection:
    """A channel to one server, and its calls; `infer` and streams take and give bytes."""

    __slots__ = ("_stream", "channel", "infer", "is_secure", "stub")

    def __init__(
        self, endpoint: Endpoint, settings: Settings, credentials: grpc.ChannelCredentials | None
    ) -> None:
        """`credentials` None means those that `endpoint` asks for: the system's authorities, or none."""
        options = channel_options(endpoint, settings)
        chosen = _chosen(endpoint, credentials)
        self.is_secure = chosen is not None
        if chosen is None:
            self.channel = grpc.insecure_channel(endpoint.address, options)
        else:
            self.channel = grpc.secure_channel(endpoint.address, chosen, options)
        self.stub = InferenceServiceStub(self.channel)
        self.infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(_INFER)
        self._stream: grpc.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(_STREAM)

    def open_stream(self, lock: Guard, owner: Owner) -> Wire:
        """Begin a stream, with the lock held; ValueError if the channel is closed."""
        return _wire_kind()(self._stream, lock, owner)


class AioConnection:
    """A channel of the running event loop to one server, and its calls; as `Connection`.

    Streams go over one that is not the event loop's, which is not opened before there is one: grpc.aio has
    its tasks woken twice for each message of a stream.
    """

    __slots__ = ("_blocking", "_closed", "_connect", "channel", "infer", "is_secure", "stub")

    def __init__(
        self, endpoint: Endpoint, settings: Settings, credentials: grpc.ChannelCredentials | None
    ) -> None:
        """`credentials` are `Connection`'s."""
        options = channel_options(endpoint, settings)
        chosen = _chosen(endpoint, credentials)
        self.is_secure = chosen is not None
        if chosen is None:
            self.channel = grpc.aio.insecure_channel(endpoint.address, options)
        else:
            self.channel = grpc.aio.secure_channel(endpoint.address, chosen, options)
        self.stub: InferenceServiceAsyncStub = InferenceServiceStub(self.channel)
        self.infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(_INFER)
        self._connect = partial(Connection, endpoint, settings, credentials)
        self._blocking: Connection | None = None
        self._closed = False

    def open_stream(self, lock: Guard, owner: Owner) -> Wire:
        """Begin a stream, with the lock held; ValueError if the connection is closed."""
        if self._closed:
            raise ValueError("the connection is closed")
        if self._blocking is None:
            self._blocking = self._connect()
        return self._blocking.open_stream(lock, owner)

    async def close(self) -> None:
        """Cancel all calls, and let go of the server."""
        self._closed = True
        await self.channel.close()
        if self._blocking is not None:
            await asyncio.to_thread(self._blocking.channel.close)


@cache
def _wire_kind() -> type[CoreWire] | type[IteratedWire]:
    """Return how streams go: by grpcio's own core, which costs less, wherever that can be trusted."""
    reason = core_support.why_not()
    if reason is not None:
        logger.info("streams are iterated, which costs more a message: %s", reason)
        return IteratedWire
    # Only where it was looked at before: it is made of names that may be missing.
    from headrace.core_wire import CoreWire

    return CoreWire


def channel_options(endpoint: Endpoint, settings: Settings) -> Options:
    """Return the options of a channel to a server."""
    options: Options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),  # another client's broken connection is none of ours
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_BACKOFF_MS),
    ]
    if settings.keepalive_seconds is not None:
        options += [
            ("grpc.keepalive_time_ms", int(min(settings.keepalive_seconds * 1000, _NEVER_MS))),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # without it a ping has a minute
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    is_socket = endpoint.address.startswith(socket_path.PREFIX)
    own_name = "localhost" if is_socket else ""  # gRPC would look for the path in the certificate
    server_name = (settings.tls and settings.tls.server_name) or endpoint.name or own_name
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if is_socket or _is_loopback(endpoint.address):
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_credentials(tls: Tls | None) -> grpc.ChannelCredentials | None:
    """Read the files of a TLS setting. Raises CertificateError, a ValueError that names the file."""
    if tls is None:
        return None
    authorities = None if tls.ca_file is None else read_authorities(Path(tls.ca_file))
    if tls.certificate_file is None or tls.key_file is None:
        return grpc.ssl_channel_credentials(authorities)
    identity = read_identity(Path(tls.certificate_file), Path(tls.key_file), of_client=True)
    if identity.problem:
        logger.warning("%s: servers will refuse it", identity.problem)
    return grpc.ssl_channel_credentials(authorities, identity.key, identity.chain)
