from __future__ import annotations

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from hosted_server import hosted
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace_proto.names import INFERENCE_SERVICE, SERVICES, TRITON_SERVICE
from headrace_server.transport.reflection import REFLECTION_V1, descriptions

REFLECTION_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


@pytest.mark.parametrize(
    ("service", "package"), [(INFERENCE_SERVICE, "headrace.v1"), (TRITON_SERVICE, "inference")]
)
def test_each_service_is_described_in_messages_of_its_own_package(service: str, package: str) -> None:
    described = descriptions().FindServiceByName(service)
    assert len(described.methods) == 20
    for method in described.methods:
        assert method.input_type.full_name == f"{package}.{method.name}Request".replace(
            "ModelStreamInferRequest", "ModelInferRequest"
        )
        assert method.output_type.file.package == package


def test_both_descriptions_have_the_same_fields() -> None:
    pool = descriptions()
    ours, theirs = (pool.FindServiceByName(name) for name in SERVICES)
    for method in ours.methods:
        other = theirs.FindMethodByName(method.name).input_type
        assert [(f.name, f.number, f.type) for f in method.input_type.fields] == [
            (f.name, f.number, f.type) for f in other.fields
        ]


def test_nested_messages_are_found_under_the_name_that_tritons_clients_know() -> None:
    message = descriptions().FindMessageTypeByName("inference.ModelInferRequest")
    assert message.fields_by_name["inputs"].message_type.full_name == (
        "inference.ModelInferRequest.InferInputTensor"
    )
    config = descriptions().FindMessageTypeByName("inference.ModelConfigResponse")
    assert config.fields_by_name["config"].message_type.full_name == "inference.ModelConfig"


def services(channel: grpc.Channel, reflection: str) -> set[str]:
    call = channel.stream_stream(
        f"/{reflection}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    return {service.name for service in answer.list_services_response.service}


@pytest.mark.parametrize("channelz", [False, True])
def test_both_versions_tell_the_services_and_channelz_where_it_is_on(channelz: bool) -> None:
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, channelz=channelz) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for reflection in (REFLECTION_V1, REFLECTION_V1ALPHA):
            names = services(channel, reflection)
            assert names >= {*SERVICES, "grpc.health.v1.Health", REFLECTION_V1, REFLECTION_V1ALPHA}
            assert ("grpc.channelz.v1.Channelz" in names) is channelz
        statistics = channelz_pb2_grpc.ChannelzStub(channel)
        if channelz:
            assert statistics.GetServers(channelz_pb2.GetServersRequest(), timeout=10).server
        else:
            with pytest.raises(grpc.RpcError) as refused:
                statistics.GetServers(channelz_pb2.GetServersRequest(), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
