"""Connections to one server each: channel options, credentials, and the stub on top."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from headrace.config import Settings, Tls
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:  # a type of the stub file alone
    from headrace_proto.v1.inference_pb2_grpc import InferenceServiceAsyncStub

Options = list[tuple[str, int | str]]

KEEPALIVE_TIMEOUT_MS: Final = 1000

CONNECT_TIMEOUT_MS: Final = 1000
"""How long an attempt to connect may take: a host that is gone answers nothing at all, and gRPC would
wait 20 s for it."""

MAX_RECONNECT_BACKOFF_MS: Final = 2000


class Connection:
    """A channel to one server, and its calls."""

    __slots__ = ("channel", "stub")

    def __init__(self, address: str, settings: Settings, credentials: grpc.ChannelCredentials | None) -> None:
        options = channel_options(address, settings)
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self.stub = InferenceServiceStub(self.channel)


class AioConnection:
    """A channel of the running event loop to one server, and its calls."""

    __slots__ = ("channel", "stub")

    def __init__(self, address: str, settings: Settings, credentials: grpc.ChannelCredentials | None) -> None:
        options = channel_options(address, settings)
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address, options)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials, options)
        self.stub: InferenceServiceAsyncStub = InferenceServiceStub(self.channel)


def channel_options(address: str, settings: Settings) -> Options:
    """Return the options of a channel to `address` ("host:port")."""
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
            ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # without it a ping has a minute
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    if settings.tls is not None and settings.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    if _is_loopback(address):
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or address.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_credentials(tls: Tls | None) -> grpc.ChannelCredentials | None:
    """Read the files of a TLS setting; OSError names the one that cannot be read."""
    if tls is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_content(tls.ca_file),
        private_key=_content(tls.key_file),
        certificate_chain=_content(tls.certificate_file),
    )


def _content(file: Path | str | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
