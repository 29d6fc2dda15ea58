"""Who is alive, ready, and known."""

from __future__ import annotations

from typing import Final

from oip import differences
from oip.case import Case, Check, Code, Earlier, ask, case
from oip.wire import Outcome

from headrace_proto.v1 import inference_pb2 as pb


def ready(expected: bool) -> Check:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        assert outcome.answer.ready is expected

    return check


def _model_ready(name: str, version: str, expected: bool) -> Case:
    label = f"{name or 'no name'}{version and ' version ' + version} is {'' if expected else 'not '}ready"
    return case(
        label, ask("ModelReady", pb.ModelReadyRequest(name=name, version=version), gives=ready(expected))
    )


def _extensions(outcome: Outcome, _earlier: Earlier) -> None:
    expected = {
        "classification", "sequence", "model_repository", "model_repository(unload_dependents)",
        "schedule_policy", "model_configuration", "system_shared_memory", "binary_tensor_data", "parameters",
        "statistics", "trace", "logging",
    }  # fmt: skip
    assert expected <= set(outcome.answer.extensions), set(outcome.answer.extensions) ^ expected
    assert outcome.answer.name
    assert outcome.answer.version


CASES: Final[list[Case]] = [
    case(
        "the server is live",
        ask("ServerLive", pb.ServerLiveRequest(), gives=pb.ServerLiveResponse(live=True)),
    ),
    case("the server is ready", ask("ServerReady", pb.ServerReadyRequest(), gives=ready(True))),
    case(
        "a field that nobody knows is passed over",
        ask("ServerLive", b"\x7a\x01a", gives=pb.ServerLiveResponse(live=True)),
    ),
    case("the server tells its name, version and extensions", ask("ServerMetadata", b"", gives=_extensions)),
    _model_ready("simple", "", True),
    _model_ready("simple", "1", True),
    _model_ready("simple", "7", False),
    _model_ready("every_version", "2", True),
    _model_ready("chosen_versions", "2", False),
    _model_ready("chosen_versions", "3", True),
    _model_ready("latest_version", "3", True),
    _model_ready("latest_version", "2", False),
    _model_ready("repeat", "", True),
    _model_ready("running_sum", "", True),
    _model_ready("no_such_model", "", False),
    _model_ready("no_such_model", "1", False),
    _model_ready("", "", False),
    *(
        case(
            f"version {version!r} is no version",
            ask(
                "ModelReady",
                pb.ModelReadyRequest(name="simple", version=version),
                Code.INVALID_ARGUMENT,
                "version",
                differs=differs,
            ),
        )
        for version, differs in (
            ("abc", None),
            ("-1", None),
            ("1x", differences.LOOSE_VERSION),
            (" 1", differences.LOOSE_VERSION),
        )
    ),
    case(
        "a procedure that nobody knows",
        ask("/inference.GRPCInferenceService/Nonsense", b"", Code.UNIMPLEMENTED),
    ),
    case("a service that nobody knows", ask("/inference.Nonsense/ServerLive", b"", Code.UNIMPLEMENTED)),
    *(
        case(
            f"bytes that are no {name}Request",
            ask(name, b"\xff\xff\xff", Code.INVALID_ARGUMENT, f"{name}Request", differs=differences.GARBAGE),
        )
        for name in (
            "ModelInfer",
            "ModelMetadata",
            "ModelReady",
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
            "RepositoryModelLoad",
            "SystemSharedMemoryRegister",
            "TraceSetting",
            "LogSettings",
        )
    ),
]
