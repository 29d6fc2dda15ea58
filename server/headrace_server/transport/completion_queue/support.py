"""Whether the installed grpcio is one that this transport was tried with.

Nothing is called to find out: names and signatures are compared, and the version.
"""

from __future__ import annotations

import importlib
import inspect
from types import MappingProxyType, ModuleType
from typing import Final

import grpc

_TRIED: Final = (1, 85)
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
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if found != _TRIED:
        return f"grpcio {version} is installed, it was tried with {'.'.join(map(str, _TRIED))}"
    cygrpc = module or importlib.import_module(_MODULE)
    for name in _FIELDS:
        if _find(cygrpc, name) is None:
            return f"grpcio {version} has no {name}"
    for name, expected in _SIGNATURES.items():
        function = _find(cygrpc, name)
        if function is None:
            return f"grpcio {version} has no {name}"
        came = _parameters(function)
        if came != expected:
            return f"grpcio {version} has {name}({', '.join(came)}), ({', '.join(expected)}) was expected"
    return None


def _find(module: ModuleType, name: str) -> object | None:
    found: object | None = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _parameters(function: object) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)  # type: ignore[arg-type]  # that is the question
    except (TypeError, ValueError):
        return ("no signature",)
