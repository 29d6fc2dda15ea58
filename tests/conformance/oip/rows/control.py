"""Loading and unloading at run time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from oip import differences, graphs
from oip.build import infer, raw, tensors
from oip.case import Case, Code, Earlier, Server, Step, act, ask, case
from oip.rows.described import index
from oip.rows.states import ready
from oip.wire import PATIENCE_SECONDS, Outcome, Wire

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1 import model_config_pb2 as config_pb

Value = bool | int | str | bytes
_X: Final = raw("x", "FP32", [[1]])
_TWIN: Final = Path(__file__).parents[2] / "programs" / "triton" / "adder.py"


def _parameter(value: Value) -> pb.ModelRepositoryParameter:
    if isinstance(value, bool):
        return pb.ModelRepositoryParameter(bool_param=value)
    if isinstance(value, int):
        return pb.ModelRepositoryParameter(int64_param=value)
    if isinstance(value, str):
        return pb.ModelRepositoryParameter(string_param=value)
    return pb.ModelRepositoryParameter(bytes_param=value)


def _load(
    name: str, code: Code = Code.OK, says: str = "", *, given: Mapping[str, Value] | None = None, **more: Any
) -> Step:
    parameters = {key: _parameter(value) for key, value in (given or {}).items()}
    request = pb.RepositoryModelLoadRequest(model_name=name, parameters=parameters)
    return ask("RepositoryModelLoad", request, code, says, **more)


def _unload(
    name: str, code: Code = Code.OK, says: str = "", *, given: Mapping[str, Value] | None = None, **more: Any
) -> Step:
    parameters = {key: _parameter(value) for key, value in (given or {}).items()}
    request = pb.RepositoryModelUnloadRequest(model_name=name, parameters=parameters)
    return ask("RepositoryModelUnload", request, code, says, **more)


def _answers(name: str, version: int, ask_for: str = "") -> Step:
    """Expect the version's own sum."""
    return ask("ModelInfer", infer(name, _X, version=ask_for), gives=tensors(y=("FP32", [[1 + version]])))


def _is_ready(name: str, expected: bool) -> Step:
    return ask("ModelReady", pb.ModelReadyRequest(name=name), gives=ready(expected))


def _indexed(**expected: list[tuple[str, str]]) -> Step:
    """Expect these states, as soon as versions that are on their way have arrived."""

    def settled(wire: Wire, _earlier: Earlier) -> Outcome:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            outcome = wire.call("RepositoryIndex", pb.RepositoryIndexRequest())
            moving = {"LOADING", "UNLOADING"} & {
                one.state for one in outcome.answer.models if one.name in expected
            }
            if not moving or time.monotonic() > give_up:
                return outcome
            time.sleep(0.01)

    return act(settled, gives=index(**expected))


def _reason(name: str, expected: str = "") -> Step:
    """Expect why it does not serve: these words, or any."""

    def has_reason(outcome: Outcome, _earlier: Earlier) -> None:
        reasons = [(one.state, one.reason) for one in outcome.answer.models if one.name == name]
        assert reasons
        for state, reason in reasons:
            assert state == "UNAVAILABLE"
            assert reason == expected if expected else reason

    return ask("RepositoryIndex", pb.RepositoryIndexRequest(), gives=has_reason)


def _configuration(name: str, max_batch_size: int) -> Step:
    expected = pb.ModelConfigResponse(config=config_pb.ModelConfig(name=name, max_batch_size=max_batch_size))
    return ask("ModelConfig", pb.ModelConfigRequest(name=name), gives=expected)


def _config(wire: Wire, **more: Any) -> str:
    """Return a configuration of an adder, as a caller of this server sends it."""
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    return json.dumps(
        {
            "backend": "python" if _is_triton(wire) else "onnxruntime",
            "max_batch_size": 4,
            "input": [{"name": "x", **tensor}],
            "output": [{"name": "y", **tensor}],
            **more,
        }
    )


def _file(wire: Wire, version: int) -> dict[str, Value]:
    """Return an adder's own file, as this server takes it."""
    if _is_triton(wire):
        return {f"file:{version}/model.py": _TWIN.read_bytes()}
    return {f"file:{version}/model.onnx": graphs.adder(version).SerializeToString()}


def _is_triton(wire: Wire) -> bool:
    return bool(wire.call("ServerMetadata", b"").answer.name == "triton")


def _load_given(
    name: str, made: Callable[[Wire], Mapping[str, Value]], code: Code = Code.OK, says: str = "", **more: Any
) -> Step:
    """Make the step of a load whose parameters depend on what the server runs."""

    def send(wire: Wire, earlier: Earlier) -> Outcome:
        return _load(name, given=made(wire)).send(wire, earlier)

    return act(send, code=code, says=says, **more)


def _refused_load(name: str, says: str, given: Mapping[str, Value], **more: Any) -> Case:
    """Expect a refusal, after which the model serves as before."""
    wrong = _load("spare", Code.INVALID_ARGUMENT, says, given=given, **more)
    return case(name, _load("spare"), wrong, _answers("spare", 2), undo=_UNDO)


_UNDO: Final = (_unload("spare"),)
_SECOND: Final = [("2", "READY")]
_BOTH: Final = [("1", "READY"), ("2", "READY")]
_ONLY_FIRST: Final = {"version_policy": {"specific": {"versions": [1]}}}

CASES: Final[list[Case]] = [
    case(
        "a model is loaded, and then it serves",
        _is_ready("spare", False),
        _load("spare"),
        _is_ready("spare", True),
        _indexed(spare=_SECOND),
        _answers("spare", 2),
        undo=_UNDO,
    ),
    case(
        "a model is loaded again",
        _load("spare"),
        _load("spare"),
        _indexed(spare=_SECOND),
        _answers("spare", 2),
        undo=_UNDO,
    ),
    case(
        "a model is unloaded",
        _load("spare"),
        _unload("spare"),
        _indexed(spare=[("2", "UNAVAILABLE")]),
        _reason("spare", "unloaded"),
        _is_ready("spare", False),
        ask("ModelInfer", infer("spare", _X), Code.UNAVAILABLE, "spare", differs=differences.NEVER_LOADED),
        ask("ModelInfer", infer("spare", _X, version="2"), Code.UNAVAILABLE, "spare"),
        ask(
            "ModelMetadata",
            pb.ModelMetadataRequest(name="spare"),
            Code.UNAVAILABLE,
            "spare",
            differs=differences.NEVER_LOADED,
        ),
        ask(
            "ModelConfig",
            pb.ModelConfigRequest(name="spare"),
            Code.UNAVAILABLE,
            "spare",
            differs=differences.NEVER_LOADED,
        ),
        ask(
            "ModelStatistics",
            pb.ModelStatisticsRequest(name="spare"),
            Code.UNAVAILABLE,
            "spare",
            differs=differences.STATISTICS_OF_UNLOADED,
        ),
    ),
    case(
        "a model that was unloaded is loaded",
        _load("spare"),
        _unload("spare"),
        _load("spare"),
        _indexed(spare=_SECOND),
        _answers("spare", 2),
        undo=_UNDO,
    ),
    case("a model is unloaded twice", _load("spare"), _unload("spare"), _unload("spare")),
    case(
        "unloading a model that nobody knows",
        _unload("simpel", Code.NOT_FOUND, "simpel", differs=differences.UNLOAD_OF_NOTHING),
    ),
    case("unloading without a name", _unload("", Code.NOT_FOUND, differs=differences.UNLOAD_OF_NOTHING)),
    case(
        "loading a model that nobody knows",
        _load("simpel", Code.NOT_FOUND, "simpel", differs=differences.LOAD_OF_NOTHING),
    ),
    case("loading without a name", _load("", Code.NOT_FOUND, differs=differences.LOAD_OF_NOTHING)),
    case(
        "loading a name that leads elsewhere",
        _load("../simple", Code.NOT_FOUND, differs=differences.LOAD_OF_NOTHING),
    ),
    case(
        "the statistics of no such model",
        *(
            ask("ModelStatistics", request, Code.NOT_FOUND, differs=differences.STATISTICS_OF_NOTHING)
            for request in (
                pb.ModelStatisticsRequest(name="simpel"),
                pb.ModelStatisticsRequest(name="simple", version="9"),
            )
        ),
    ),
    case(
        "a configuration from the caller",
        _load_given("spare", lambda wire: {"config": _config(wire, **_ONLY_FIRST)}),
        _configuration("spare", 4),
        _answers("spare", 1),
        ask("ModelInfer", infer("spare", raw("x", "FP32", [[1]] * 5)), Code.INVALID_ARGUMENT, "5 rows"),
        undo=_UNDO,
    ),
    case(
        "the configuration of the repository, after one from the caller",
        _load_given("spare", lambda wire: {"config": _config(wire, **_ONLY_FIRST)}),
        _load("spare"),
        _configuration("spare", 8),
        _answers("spare", 2),
        only_ours="Triton 2.51 keeps the caller's every other time",
        undo=_UNDO,
    ),
    case(
        "all versions by a configuration from the caller",
        _load_given("spare", lambda wire: {"config": _config(wire, version_policy={"all": {}})}),
        _indexed(spare=_BOTH),
        _answers("spare", 1, "1"),
        _answers("spare", 2, "2"),
        undo=_UNDO,
    ),
    case(
        "files from the caller",
        _load_given("spare", lambda wire: {"config": _config(wire), **_file(wire, 7)}),
        _answers("spare", 7),
        _load("spare"),
        _answers("spare", 2),
        undo=_UNDO,
    ),
    case(
        "a model that is in no repository, by files from the caller",
        _load_given("brought", lambda wire: {"config": _config(wire), **_file(wire, 3)}),
        _is_ready("brought", True),
        _answers("brought", 3),
        undo=(_unload("brought"),),
    ),
    case(
        "files without a configuration",
        _load("spare"),
        _load_given(
            "spare",
            lambda wire: _file(wire, 7),
            Code.INVALID_ARGUMENT,
            "config",
            differs=differences.LOAD_WITH_BAD_CONFIG,
        ),
        _answers("spare", 2),
        undo=_UNDO,
    ),
    case(
        "a file whose path leads elsewhere",
        _load_given(
            "spare",
            lambda wire: {"config": _config(wire), "file:../../evil/model.onnx": b"x"},
            Code.INVALID_ARGUMENT,
            "evil",
            differs=differences.FILE_OUTSIDE,
        ),
    ),
    _refused_load(
        "a configuration that is no JSON", "config", {"config": "{"}, differs=differences.LOAD_WITH_BAD_CONFIG
    ),
    _refused_load(
        "a configuration with a field that nobody knows",
        "nope",
        {"config": '{"nope": 1}'},
        differs=differences.LOAD_WITH_BAD_CONFIG,
    ),
    _refused_load("a configuration that is a number", "config", {"config": 1}),
    _refused_load("a file that is a text", "file:1/model", {"config": "{}", "file:1/model.onnx": "x"}),
    _refused_load("a parameter that nobody knows", "nope", {"nope": 1}),
    case(
        "unloading with unload_dependents",
        _load("spare"),
        _unload("spare", given={"unload_dependents": True}),
        _is_ready("spare", False),
    ),
    case(
        "unload_dependents that is a number",
        _load("spare"),
        _unload("spare", Code.INVALID_ARGUMENT, "unload_dependents", given={"unload_dependents": 1}),
        _answers("spare", 2),
        undo=_UNDO,
    ),
    *(
        case(
            f"{verb} by the name of a repository",
            ask(method, request, Code.UNIMPLEMENTED, "repository"),
        )
        for verb, method, request in (
            (
                "loading",
                "RepositoryModelLoad",
                pb.RepositoryModelLoadRequest(model_name="spare", repository_name="other"),
            ),
            (
                "unloading",
                "RepositoryModelUnload",
                pb.RepositoryModelUnloadRequest(model_name="simple", repository_name="other"),
            ),
        )
    ),
    *(
        case(
            f"{verb} where it was not allowed",
            ask(
                method,
                request,
                Code.FAILED_PRECONDITION,
                "--model-control-mode",
                differs=differences.CONTROL_DISABLED,
            ),
            ask("ServerReady", b"", gives=ready(True)),
            server=Server.CLOSED,
        )
        for verb, method, request in (
            ("loading", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="simple")),
            ("unloading", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="simple")),
        )
    ),
    case(
        "loading a model that is broken",
        _load("broken", Code.INVALID_ARGUMENT, "broken"),
        _reason("broken"),
        _is_ready("broken", False),
        ask("ModelInfer", infer("broken", _X), Code.UNAVAILABLE, "broken", differs=differences.NEVER_LOADED),
        ask("ModelInfer", infer("broken", _X, version="1"), Code.UNAVAILABLE, "broken"),
        ask("ServerReady", b"", gives=ready(True), differs=differences.READY_BESIDE_BROKEN),
        _answers("told", 1),
        undo=(_unload("broken"),),
    ),
]
