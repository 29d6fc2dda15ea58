"""Whether the installed grpcio is one that this transport was tried with."""

from __future__ import annotations

import importlib
from types import MappingProxyType, ModuleType
from typing import Final

import grpc

from headrace_proto import grpcio_core

_MODULE: Final = "grpc._cython.cygrpc"
_SIGNATURES: Final = MappingProxyType(
    {
        "CompletionQueue.poll": ("self", "deadline"),
        "CompletionQueue.shutdown": ("self",),
        "Server.register_completion_queue": ("self", "queue"),
        "Server.add_http2_port": ("self", "address", "server_credentials"),
        "Server.start": ("self", "backup_queue"),
        "Server.request_call": ("self", "call_queue", "server_queue", "tag"),
        "Server.shutdown": ("self", "queue", "tag"),
        "Server.cancel_all_calls": ("self",),
        "Server.destroy": ("self",),
        "Call.start_server_batch": ("self", "operations", "tag"),
        "Call.cancel": ("self", "error_code", "details"),
        "Call.peer": ("self",),
        "ReceiveMessageOperation.message": ("self",),
        "ReceiveCloseOnServerOperation.cancelled": ("self",),
        "auth_context": ("call",),
    }
)
_FIELDS: Final = (
    "RequestCallEvent.call", "RequestCallEvent.call_details", "RequestCallEvent.invocation_metadata",
    "RequestCallEvent.success", "RequestCallEvent.tag", "RequestCallEvent.completion_type",
    "BatchOperationEvent.batch_operations", "BatchOperationEvent.success", "BatchOperationEvent.tag",
    "CallDetails.method", "CallDetails.deadline", "CompletionType.queue_shutdown",
    "CompletionType.queue_timeout", "SendInitialMetadataOperation", "SendMessageOperation",
    "SendStatusFromServerOperation",
)  # fmt: skip


def why_not(version: str = grpc.__version__, module: ModuleType | None = None) -> str | None:
    """Return why this transport cannot serve with grpcio as it is, or None."""
    cygrpc = module or importlib.import_module(_MODULE)
    return grpcio_core.why_not(version, cygrpc, names=_FIELDS, signatures=_SIGNATURES)
