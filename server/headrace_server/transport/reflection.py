"""Server reflection, for grpcurl and its like: the protocol under both of the service's names.

The name that clients of Triton call lives in another package than ours. Its description is made from our
own, in a pool apart from the process's, where a second package of that name could not be. Reflection itself
has two names as well, v1 and v1alpha, and the same messages under both.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from headrace_proto.names import INFERENCE_SERVICE, SERVICES, TRITON_SERVICE
from headrace_proto.v1 import inference_pb2, model_config_pb2
from headrace_server.errors import Overloaded
from headrace_server.transport.inflation import reading
from headrace_server.transport.refusal import Context, refuse

REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"

_HEALTH: Final = "grpc.health.v1.Health"
_CHANNELZ: Final = "grpc.channelz.v1.Channelz"
_MOST_READERS: Final = 64
"""Streams of questions at once; they are few, short and for people."""


def handlers(*, channelz: bool = False) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return, by its path, what lets clients ask a server for its services and messages."""
    names = [*SERVICES, _HEALTH, REFLECTION_V1, reflection.SERVICE_NAME]
    servicer = _Servicer(names + [_CHANNELZ] * channelz, pool=descriptions())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reading(reflection_pb2.ServerReflectionRequest.FromString),
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {f"/{name}/ServerReflectionInfo": handler for name in (REFLECTION_V1, reflection.SERVICE_NAME)}


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the package has no types
    """The package's, for so many streams at a time."""

    def __init__(self, names: list[str], pool: descriptor_pool.DescriptorPool) -> None:
        super().__init__(names, pool=pool)
        self._descriptions = pool
        self._readers = 0

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        """Find methods as well, by their service: Python's pool knows everything else by its full name."""
        service, _, method = fully_qualified_name.rpartition(".")
        try:
            known = self._descriptions.FindServiceByName(service).methods_by_name
        except KeyError:
            known = {}
        return super()._file_containing_symbol(request, service if method in known else fully_qualified_name)

    async def ServerReflectionInfo(  # noqa: N802  # the procedure's name
        self, requests: AsyncIterable[Any], context: Context
    ) -> AsyncIterator[Any]:
        if self._readers >= _MOST_READERS:
            told = f"{_MOST_READERS} streams of reflection are open, which is the limit"
            await refuse(context, Overloaded(told))
        self._readers += 1
        try:
            async for answer in super().ServerReflectionInfo(requests, context):
                yield answer
        finally:
            self._readers -= 1


def descriptions() -> descriptor_pool.DescriptorPool:
    """Return the descriptions of all protocols that a server can serve."""
    pool = descriptor_pool.DescriptorPool()
    known: set[str] = set()
    protocols = (inference_pb2, health_pb2, channelz_pb2, reflection_pb2)
    for module in protocols:
        _add(pool, module.DESCRIPTOR, known)
    for module in (model_config_pb2, inference_pb2):
        pool.Add(_moved(module.DESCRIPTOR, INFERENCE_SERVICE, TRITON_SERVICE))
    pool.Add(_moved(reflection_pb2.DESCRIPTOR, reflection.SERVICE_NAME, REFLECTION_V1))
    return pool


def _add(pool: descriptor_pool.DescriptorPool, file: FileDescriptor, known: set[str]) -> None:
    """Add a file after those that it imports."""
    for dependency in file.dependencies:
        _add(pool, dependency, known)
    if file.name not in known:
        known.add(file.name)
        pool.AddSerializedFile(file.serialized_pb)


def _moved(file: FileDescriptor, service: str, other: str) -> descriptor_pb2.FileDescriptorProto:
    """Return the same file as if its service, and with it its package, had the other name."""
    ours, our_service = service.rsplit(".", 1)
    theirs, their_service = other.rsplit(".", 1)
    moved = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(moved)
    moved.package = theirs
    moved.name = _path(file.name, theirs)
    moved.dependency[:] = [_path(name, theirs) for name in moved.dependency]
    for declared in moved.service:
        declared.name = their_service if declared.name == our_service else declared.name
        for method in declared.method:
            method.input_type = method.input_type.replace(f".{ours}.", f".{theirs}.", 1)
            method.output_type = method.output_type.replace(f".{ours}.", f".{theirs}.", 1)
    for message in moved.message_type:
        _rename_fields(message, f".{ours}.", f".{theirs}.")
    return moved


def _rename_fields(message: descriptor_pb2.DescriptorProto, ours: str, theirs: str) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = field.type_name.replace(ours, theirs, 1)
    for nested in message.nested_type:
        _rename_fields(nested, ours, theirs)


def _path(name: str, package: str) -> str:
    return f"{package}/{name.rsplit('/', 1)[-1]}"
