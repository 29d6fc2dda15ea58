"""What gRPC's core grants to connections, long before a call reaches anything of ours."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from enum import Enum
from typing import Final

ChannelArguments = list[tuple[str, int]]

_READ_AHEAD_BYTES: Final = 1 << 20
"""What a client may send on a stream that is not being read: paused streams hold no more than that."""
_MOST_UNSEEN_CALLS: Final = 1 << 15
"""Calls that may wait to be seen by the loop, be they taken back already. gRPC ends what is more with a bare
CANCELLED, at random and whose ever it is; so this is for the memory's sake alone, and a burst is refused by
us, in words."""
_HANDSHAKE_MS: Final = 20_000
_FILES_BESIDE: Final = 256
"""Open files that are kept for other things than connections: models, metrics, Consul, traces. Of less than
twice as many, half."""


class Compression(Enum):
    """How much answers are compressed for clients that accept gzip; the values are gRPC's levels."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Limits and habits of connections. Times in milliseconds; an age of 0 is no limit."""

    max_message_bytes: int = 64 << 20
    max_metadata_bytes: int = 16 << 10
    max_connections: int = 4096
    keepalive_time_ms: int = 60_000
    keepalive_timeout_ms: int = 20_000
    min_ping_interval_ms: int = 0
    """None by default: cutting off one that floods and reads nothing, gRPC holds up all the others while it
    notes every further ping as one more reason."""
    max_age_ms: int = 0
    max_age_grace_ms: int = 0
    compression: Compression = Compression.NONE
    channelz: bool = False

    def most_connections(self) -> int:
        """Return how many connections are taken: gRPC would use up the last file that may be open, too."""
        files = _most_files()
        return self.max_connections if files is None else min(self.max_connections, files - _beside(files))

    def why_fewer_connections(self) -> str:
        """Return how the files that may be open leave less than `max_connections`; "" where they do not."""
        files = _most_files()
        if files is None or files - _beside(files) >= self.max_connections:
            return ""
        return (
            f"the limit on open files is {files} (ulimit -n), {_beside(files)} of which are kept for other "
            f"things; --max-connections {self.max_connections} needs {self.max_connections + _FILES_BESIDE}"
        )

    def channel_arguments(self) -> ChannelArguments:
        """Return the arguments for gRPC's core."""
        arguments = [
            ("grpc.so_reuseport", 0),  # a taken port is an error
            ("grpc.max_allowed_incoming_connections", self.most_connections()),
            ("grpc.server.max_pending_requests", _MOST_UNSEEN_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", _MOST_UNSEEN_CALLS),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.per_message_decompression", 0),  # `inflation` does it
            # Between the two gRPC would refuse at random.
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            # Else a stream may send ahead what the fastest client's bandwidth suggests: up to 1 GiB.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _READ_AHEAD_BYTES),
            ("grpc.keepalive_time_ms", self.keepalive_time_ms),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_ms),
            ("grpc.http2.ping_timeout_ms", self.keepalive_timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", self.min_ping_interval_ms),
            ("grpc.enable_channelz", int(self.channelz)),
        ]
        optional = [
            ("grpc.max_connection_age_ms", self.max_age_ms),
            ("grpc.max_connection_age_grace_ms", self.max_age_grace_ms),
            ("grpc.default_compression_level", self.compression.value),
        ]
        return arguments + [(name, value) for name, value in optional if value]


def _most_files() -> int | None:
    """Return how many files this process may open; None if there is no limit."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if files == resource.RLIM_INFINITY else files


def _beside(files: int) -> int:
    """Return how many of the files that may be open are no connections."""
    return min(_FILES_BESIDE, files // 2)
