"""The client of Headrace: predictions from the servers behind an address, a name, or Consul.

with Client("localhost:8001") as client:
    outputs = client.infer("digits", {"image": images})
"""

from headrace.aio import AsyncClient
from headrace.client import Client
from headrace.config import Retry, Tls
from headrace.errors import (
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    EngineFailed,
    Forbidden,
    HeadraceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    NotSupported,
    Overloaded,
    RequestFailed,
    Unauthenticated,
    Unavailable,
)
from headrace.messages import ModelMetadata, TensorMetadata
from headrace.stream_requests import Request

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "EngineFailed",
    "Forbidden",
    "HeadraceError",
    "InvalidInput",
    "ModelMetadata",
    "ModelNotFound",
    "ModelNotReady",
    "NotSupported",
    "Overloaded",
    "Request",
    "RequestFailed",
    "Retry",
    "TensorMetadata",
    "Tls",
    "Unauthenticated",
    "Unavailable",
]
