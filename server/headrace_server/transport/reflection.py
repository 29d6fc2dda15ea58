"""Server reflection, for grpcurl and its like: the protocol under both of the service's names.

The name that clients of Triton call lives in another package than ours. Its description is made from our
own, in a pool apart from the process's, where a second package of that name could not be.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc.aio import Server
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from headrace_proto.names import INFERENCE_SERVICE, SERVICES, TRITON_SERVICE
from headrace_proto.v1 import inference_pb2, model_config_pb2

_HEALTH_SERVICE = "grpc.health.v1.Health"


def add_reflection(server: Server) -> None:
    """Let clients ask the server for its services and messages."""
    names = (*SERVICES, _HEALTH_SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=descriptions())


def descriptions() -> descriptor_pool.DescriptorPool:
    """Return the descriptions of all served protocols."""
    pool = descriptor_pool.DescriptorPool()
    files = [module.DESCRIPTOR.serialized_pb for module in (model_config_pb2, inference_pb2, health_pb2)]
    for serialized in files:
        pool.AddSerializedFile(serialized)
    for serialized in files[:2]:
        pool.Add(_renamed(descriptor_pb2.FileDescriptorProto.FromString(serialized)))
    return pool


def _renamed(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Return the same file in the package, and with the service name, that Triton's clients know."""
    ours, our_service = INFERENCE_SERVICE.rsplit(".", 1)
    theirs, their_service = TRITON_SERVICE.rsplit(".", 1)
    renamed = descriptor_pb2.FileDescriptorProto()
    renamed.CopyFrom(file)
    renamed.package = theirs
    renamed.name = _path(file.name, theirs)
    renamed.dependency[:] = [_path(name, theirs) for name in file.dependency]
    for service in renamed.service:
        service.name = their_service if service.name == our_service else service.name
        for method in service.method:
            method.input_type = method.input_type.replace(f".{ours}.", f".{theirs}.", 1)
            method.output_type = method.output_type.replace(f".{ours}.", f".{theirs}.", 1)
    for message in renamed.message_type:
        _rename_fields(message, f".{ours}.", f".{theirs}.")
    return renamed


def _rename_fields(message: descriptor_pb2.DescriptorProto, ours: str, theirs: str) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = field.type_name.replace(ours, theirs, 1)
    for nested in message.nested_type:
        _rename_fields(nested, ours, theirs)


def _path(name: str, package: str) -> str:
    return f"{package}/{name.rsplit('/', 1)[-1]}"
