"""Which transport serves: the faster one wherever it can be trusted, else the one that always works."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum

from headrace_server.core.service import Service
from headrace_server.transport.aio.server import AioServer
from headrace_server.transport.completion_queue import support
from headrace_server.transport.control import Procedure
from headrace_server.transport.health import Health
from headrace_server.transport.options import TransportOptions
from headrace_server.transport.server import TransportServer

_logger = logging.getLogger(__name__)


class TransportKind(Enum):
    """What a person can choose."""

    AUTO = "auto"
    COMPLETION_QUEUE = "completion-queue"
    AIO = "aio"


class TransportError(Exception):
    """The transport that was asked for cannot serve here; the text says why."""


def chosen(asked: TransportKind) -> TransportKind:
    """Return the transport that serves. Raises TransportError where the one asked for cannot."""
    if asked is TransportKind.AIO:
        return asked
    reason = support.why_not()
    if reason is None:
        return TransportKind.COMPLETION_QUEUE
    if asked is TransportKind.AUTO:
        _logger.warning("serving with --grpc-transport aio, which costs more a call: %s", reason)
        return TransportKind.AIO
    raise TransportError(f"--grpc-transport {asked.value} cannot serve: {reason}; auto can")


def make(
    kind: TransportKind,
    service: Service,
    health: Health,
    options: TransportOptions,
    procedures: Mapping[str, Procedure],
) -> TransportServer:
    """Return a server of that kind, which was `chosen`, for the running event loop."""
    if reason := options.connections.why_fewer_connections():
        _logger.warning(
            "at most %d connections can be open: %s", options.connections.most_connections(), reason
        )
    if kind is TransportKind.AIO:
        return AioServer(service, health, options, procedures=procedures)
    # Only where it was looked at before: it is made of names that may be missing.
    from headrace_server.transport.completion_queue.server import CompletionQueueServer

    return CompletionQueueServer(service, health, options, procedures=procedures)
