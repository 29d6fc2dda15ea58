"""Server reflection, for grpcurl and its like: the protocol under both of the service's names.

The name that clients of Triton call lives in another package than ours. Its description is made from our
own, in a pool apart from the process's, where a second package of that name could not be. Reflection itself
has two names as well, v1 and v1alpha, and the same messages under both.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from headrace_proto.names import INFERENCE_SERVICE, SERVICES, TRITON_SERVICE
from headrace_proto.v1 import inference_pb2, model_config_pb2
from headrace_server.errors import Overloaded, ShuttingDown
from headrace_server.transport.messages import parse
from headrace_server.transport.seam import Reactor, Routes, StreamCall, Streaming
from headrace_server.transport.status import status_of

REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"

_HEALTH: Final = "grpc.health.v1.Health"
_CHANNELZ: Final = "grpc.channelz.v1.Channelz"
_MOST_READERS: Final = 64
"""Streams of questions at once; they are few, short and for people."""
_TOLD: Final = "the server is stopping"
_STOPPING: Final = status_of(ShuttingDown(_TOLD))


class ReflectionProcedures:
    """Lets clients ask a server for its services and messages, by so many streams at a time."""

    def __init__(self, reactor: Reactor, *, channelz: bool = False) -> None:
        names = [*SERVICES, _HEALTH, REFLECTION_V1, reflection.SERVICE_NAME]
        self._servicer = _Servicer(names + [_CHANNELZ] * channelz, pool=descriptions())
        self._reactor = reactor
        self._lock = threading.Lock()
        self._readers: set[_Reader] = set()
        self._is_over = False

    def routes(self) -> Routes:
        """Return what answers, by its path."""
        route = Streaming(self._open)
        return {f"/{name}/ServerReflectionInfo": route for name in (REFLECTION_V1, reflection.SERVICE_NAME)}

    def end(self) -> None:
        """End the streams. Any thread."""
        with self._lock:
            self._is_over = True
            readers = tuple(self._readers)
        for reader in readers:
            self._reactor.run(reader.stop)

    def cut(self) -> None:
        """End the streams that have not taken their answers. Any thread."""
        with self._lock:
            readers = tuple(self._readers)
        for reader in readers:
            self._reactor.run(reader.cut)

    def leave(self, reader: _Reader) -> None:
        """Forget a reader."""
        with self._lock:
            self._readers.discard(reader)

    def _open(self, call: StreamCall) -> _Reader:
        reader = _Reader(call, self._servicer, self)
        with self._lock:
            if self._is_over:
                raise ShuttingDown(_TOLD)
            if len(self._readers) >= _MOST_READERS:
                told = f"{_MOST_READERS} streams of reflection are open, which is the limit"
                raise Overloaded(told)
            self._readers.add(reader)
        return reader


class _Reader:
    """One stream of questions, answered one by one."""

    def __init__(self, call: StreamCall, servicer: _Servicer, procedures: ReflectionProcedures) -> None:
        self._call = call
        self._servicer = servicer
        self._procedures = procedures

    def begin(self) -> None:
        self._call.receive()

    def received(self, message: bytes | None) -> None:
        if message is None:
            self._call.finish()
            return
        try:
            self._call.send(self._servicer.answer(message))
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self._call.finish(status_of(error))

    def sent(self) -> None:
        self._call.receive()

    def ended(self) -> None:
        self._procedures.leave(self)

    def stop(self) -> None:
        """End the stream."""
        self._call.finish(_STOPPING)

    def cut(self) -> None:
        """End the stream though an answer has not left."""
        self._call.cut(_STOPPING)


class _Servicer(reflection.ReflectionServicer):  # type: ignore[misc]  # the package has no types
    """The package's, which finds methods as well."""

    def __init__(self, names: list[str], pool: descriptor_pool.DescriptorPool) -> None:
        super().__init__(names, pool=pool)
        self._descriptions = pool

    def answer(self, message: bytes) -> bytes:
        """Return the answer to one question. Raises InvalidInput."""
        request = parse(reflection_pb2.ServerReflectionRequest, message)
        (answer,) = self.ServerReflectionInfo(iter((request,)), None)
        answered: bytes = answer.SerializeToString()
        return answered

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        """Find methods by their service: Python's pool knows everything else by its full name."""
        service, _, method = fully_qualified_name.rpartition(".")
        try:
            known = self._descriptions.FindServiceByName(service).methods_by_name
        except KeyError:
            known = {}
        return super()._file_containing_symbol(request, service if method in known else fully_qualified_name)


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
