from __future__ import annotations

import pytest

from headrace_proto.names import INFERENCE_SERVICE, SERVICES, TRITON_SERVICE
from headrace_server.transport.reflection import descriptions


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
