"""What a transport is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import grpc

from headrace_server.listen_address import ListenAddress
from headrace_server.transport.connections import ChannelArguments, ConnectionOptions
from headrace_server.transport.cuda_shared_memory import DeviceMemory
from headrace_server.transport.open_calls import InferenceLimits

_CALLS_BESIDE_INFERENCE: Final = 1024
"""Room for health checks and questions while as many calls as allowed are being answered."""


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Where to listen, what connections are granted, and what is held for callers."""

    addresses: tuple[ListenAddress, ...]
    inference: InferenceLimits
    connections: ConnectionOptions = field(default_factory=ConnectionOptions)
    credentials: Callable[[], grpc.ServerCredentials] | None = None
    """Makes what an address speaks TLS with; none does without."""
    allow_client_shm: bool = False
    device_memory: Callable[[], DeviceMemory | str] = lambda: "it looks for none"
    """Makes what opens clients' memory on GPUs, if there are any."""
    message_timeout_seconds: float = 60.0
    """How long a unary call may wait for its message."""

    @property
    def most_calls(self) -> int:
        """Calls of all procedures that may be open at once."""
        return self.inference.max_calls + _CALLS_BESIDE_INFERENCE

    def channel_arguments(self) -> ChannelArguments:
        """Return the arguments for gRPC's core."""
        # Calls that are begun and never sent count too: one client must leave room for others.
        return [
            *self.connections.channel_arguments(),
            ("grpc.max_concurrent_streams", self.most_calls // 2),
        ]
