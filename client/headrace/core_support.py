"""Whether the installed grpcio is one whose core streams can be driven with directly."""

from __future__ import annotations

import importlib
from types import MappingProxyType, ModuleType
from typing import Final

import grpc

from headrace_proto import grpcio_core

_LATE: Final = "grpc._channel"
"""What grpcio itself imports with the first channel."""

_SIGNATURES: Final = MappingProxyType(
    {
        "_cython.cygrpc.IntegratedCall.operate": ("self", "operations", "tag"),
        "_cython.cygrpc.IntegratedCall.cancel": ("self", "code", "details"),
        "_cython.cygrpc.ReceiveMessageOperation.message": ("self",),
        "_cython.cygrpc.ReceiveMessageOperation.type": ("self",),
        "_cython.cygrpc.SendMessageOperation.type": ("self",),
        "_cython.cygrpc.ReceiveStatusOnClientOperation.type": ("self",),
        "_cython.cygrpc.ReceiveStatusOnClientOperation.code": ("self",),
        "_cython.cygrpc.ReceiveStatusOnClientOperation.details": ("self",),
        "_cython.cygrpc.ReceiveStatusOnClientOperation.trailing_metadata": ("self",),
        "_channel._channel_managed_call_management": ("state",),
        "_channel._StreamStreamMultiCallable.__init__": (
            "self", "channel", "managed_call", "method", "target", "request_serializer",
            "response_deserializer", "_registered_call_handle",
        ),
    }
)  # fmt: skip
_NAMES: Final = (
    "_cython.cygrpc.SendInitialMetadataOperation", "_cython.cygrpc.SendMessageOperation",
    "_cython.cygrpc.SendCloseFromClientOperation", "_cython.cygrpc.ReceiveInitialMetadataOperation",
    "_cython.cygrpc.ReceiveMessageOperation", "_cython.cygrpc.ReceiveStatusOnClientOperation",
    "_cython.cygrpc.OperationType.receive_message", "_cython.cygrpc.OperationType.send_message",
    "_cython.cygrpc.OperationType.receive_status_on_client",
    "_cython.cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS",
    "_channel._StreamStreamMultiCallable._managed_call", "_channel._StreamStreamMultiCallable._method",
    "_channel._StreamStreamMultiCallable._context",
)  # fmt: skip


def why_not(version: str = grpc.__version__, package: ModuleType = grpc) -> str | None:
    """Return why streams must be iterated with grpcio as it is, or None."""
    importlib.import_module(_LATE)
    return grpcio_core.why_not(version, package, names=_NAMES, signatures=_SIGNATURES)
