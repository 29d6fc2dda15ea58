"""gRPC's health service, and server reflection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from oip import differences
from oip.case import Case, Check, Code, Earlier, Step, act, ask, case, talk
from oip.wire import Outcome, Wire

from headrace_proto.names import SERVICES, TRITON_SERVICE

_CHECK: Final = "/grpc.health.v1.Health/Check"
_WATCH: Final = "/grpc.health.v1.Health/Watch"
_SERVING: Final = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_REFLECTIONS: Final = ("v1alpha", "v1")


def _watch(name: str, expected: health_pb2.HealthCheckResponse | None) -> Case:
    def send(wire: Wire, _earlier: Earlier) -> Outcome:
        return wire.watch(_WATCH, health_pb2.HealthCheckRequest(service=name))

    def first(outcome: Outcome, _earlier: Earlier) -> None:
        assert outcome.answer == expected

    return case(f"watching {name!r}", act(send, gives=first, differs=differences.HEALTH_WATCH))


def _reflect(version: str, request: reflection_pb2.ServerReflectionRequest, gives: Check) -> Step:
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    return talk(request, method=method, gives=gives, differs=differences.REFLECTION)


def _lists(outcome: Outcome, _earlier: Earlier) -> None:
    listed = {one.name for one in outcome.answer.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed


def _files(outcome: Outcome) -> Sequence[descriptor_pb2.FileDescriptorProto]:
    files = outcome.answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(one) for one in files]


def _describes(service: str) -> Check:
    package, _, name = service.rpartition(".")

    def check(outcome: Outcome, _earlier: Earlier) -> None:
        found = {
            f"{file.package}.{one.name}": [method.name for method in one.method]
            for file in _files(outcome)
            for one in file.service
        }
        assert f"{package}.{name}" in found
        assert len(found[service]) == 20

    return check


def _describes_config(outcome: Outcome, _earlier: Earlier) -> None:
    assert any(message.name == "ModelConfig" for file in _files(outcome) for message in file.message_type)


def _not_found(outcome: Outcome, _earlier: Earlier) -> None:
    assert outcome.answer.error_response.error_code == Code.NOT_FOUND.value[0]


CASES: Final[list[Case]] = [
    *(
        case(f"health of {name!r}", ask(_CHECK, health_pb2.HealthCheckRequest(service=name), gives=_SERVING))
        for name in ("", *SERVICES, "model:simple", "model:simple:1", "model:every_version:2")
    ),
    *(
        case(
            f"health of {name!r}",
            ask(
                _CHECK,
                health_pb2.HealthCheckRequest(service=name),
                Code.NOT_FOUND,
                differs=differences.HEALTH_OF_NOBODY,
            ),
        )
        for name in ("nobody", "model:simpel", "model:simple:9")
    ),
    _watch("", _SERVING),
    _watch("model:simple", _SERVING),
    _watch("nobody", health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)),
    *(
        case(f"reflection {version}: {name}", _reflect(version, request, check))
        for version in _REFLECTIONS
        for name, request, check in (
            ("the services", reflection_pb2.ServerReflectionRequest(list_services=""), _lists),
            *(
                (
                    service,
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
                    _describes(service),
                )
                for service in SERVICES
            ),
            (
                "a message of Triton's",
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.ModelConfig"),
                _describes_config,
            ),
            (
                "a method of Triton's",
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{TRITON_SERVICE}.ModelInfer"),
                _describes(TRITON_SERVICE),
            ),
            (
                "nothing known",
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"),
                _not_found,
            ),
        )
    ),
]
