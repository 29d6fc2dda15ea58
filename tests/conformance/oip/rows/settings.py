"""Trace and log settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oip import differences
from oip.case import Case, Check, Code, Difference, Earlier, Step, ask, case
from oip.wire import Outcome

from headrace_proto.v1 import inference_pb2 as pb

_RATE: Final = {"trace_rate": ()}
_COUNT: Final = {"trace_count": ()}
_FREQUENCY: Final = {"log_frequency": ()}


def _trace(
    settings: Mapping[str, tuple[str, ...]] | None = None,
    code: Code = Code.OK,
    says: str = "",
    *,
    model: str = "",
    gives: Check | None = None,
    differs: Difference | None = None,
) -> Step:
    request = pb.TraceSettingRequest(model_name=model)
    for key, values in (settings or {}).items():
        request.settings[key].value.extend(values)
    return ask("TraceSetting", request, code, says, gives=gives, differs=differs)


def _shows(**expected: str) -> Check:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        came = {key: list(value.value) for key, value in outcome.answer.settings.items()}
        assert {key: came.get(key) for key in expected} == {key: [value] for key, value in expected.items()}

    return check


def _log(
    settings: Mapping[str, Any] | None = None, code: Code = Code.OK, says: str = "", **more: Any
) -> Step:
    request = pb.LogSettingsRequest()
    for key, value in (settings or {}).items():
        target = request.settings[key]
        if isinstance(value, bool):
            target.bool_param = value
        elif isinstance(value, int):
            target.uint32_param = value
        elif isinstance(value, str):
            target.string_param = value
    return ask("LogSettings", request, code, says, **more)


def _logs(**expected: bool | int | str) -> Check:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        came = {
            key: getattr(value, str(value.WhichOneof("parameter_choice")))
            for key, value in outcome.answer.settings.items()
        }
        assert {key: came.get(key) for key in expected} == expected

    return check


def _refused_trace(name: str, settings: Mapping[str, tuple[str, ...]], says: str, **more: Any) -> Case:
    return case(
        name, _trace(settings, Code.INVALID_ARGUMENT, says, **more), _trace(gives=_shows(trace_level="OFF"))
    )


def _refused_log(name: str, settings: Mapping[str, Any], says: str, **more: Any) -> Case:
    return case(name, _log(settings, Code.INVALID_ARGUMENT, says, **more), _log(gives=_logs(log_info=True)))


CASES: Final[list[Case]] = [
    case(
        "the trace settings, as the server starts",
        _trace(
            gives=_shows(
                trace_level="OFF",
                trace_rate="1000",
                trace_count="-1",
                log_frequency="0",
                trace_file="",
                trace_mode="triton",
            )
        ),
    ),
    case(
        "a model's trace settings are the server's, at first",
        _trace(model="simple", gives=_shows(trace_rate="1000")),
    ),
    case(
        "the trace settings of no such model",
        _trace(code=Code.NOT_FOUND, says="simpel", model="simpel", differs=differences.TRACE_OF_NOTHING),
    ),
    case(
        "a rate",
        _trace({"trace_rate": ("5",)}, gives=_shows(trace_rate="5")),
        _trace(gives=_shows(trace_rate="5")),
        undo=(_trace(_RATE),),
    ),
    case(
        "a rate that is cleared",
        _trace({"trace_rate": ("5",)}),
        _trace(_RATE, gives=_shows(trace_rate="1000")),
    ),
    case("a count", _trace({"trace_count": ("7",)}, gives=_shows(trace_count="7")), undo=(_trace(_COUNT),)),
    case(
        "a frequency",
        _trace({"log_frequency": ("5",)}, gives=_shows(log_frequency="5")),
        undo=(_trace(_FREQUENCY),),
    ),
    case("the level OFF", _trace({"trace_level": ("OFF",)}, gives=_shows(trace_level="OFF"))),
    _refused_trace(
        "a trace setting that nobody knows",
        {"nope": ("1",)},
        "nope.*trace_rate",
        differs=differences.SETTING_UNKNOWN,
    ),
    case(
        "a model's own rate",
        _trace({"trace_rate": ("9",)}, model="simple", gives=_shows(trace_rate="9")),
        _trace(model="simple", gives=_shows(trace_rate="9")),
        _trace(gives=_shows(trace_rate="1000")),
        _trace(_RATE, model="simple", gives=_shows(trace_rate="1000")),
    ),
    case(
        "the server's rate counts for a model that has none of its own",
        _trace({"trace_rate": ("5",)}),
        _trace(model="simple", gives=_shows(trace_rate="5")),
        undo=(_trace(_RATE),),
    ),
    _refused_trace("a rate that is no number", {"trace_rate": ("x",)}, "trace_rate"),
    _refused_trace("two rates", {"trace_rate": ("1", "2")}, "trace_rate"),
    _refused_trace("a count below -1", {"trace_count": ("-2",)}, "trace_count"),
    _refused_trace("a frequency that is no number", {"log_frequency": ("x",)}, "log_frequency"),
    _refused_trace("OFF beside another level", {"trace_level": ("OFF", "TIMESTAMPS")}, "OFF"),
    _refused_trace(
        "a level that needs a file, where none was given",
        {"trace_level": ("TIMESTAMPS",)},
        "trace-file|trace_file",
    ),
    _refused_trace(
        "a level that nobody knows",
        {"trace_level": ("NOPE",)},
        "NOPE",
        differs=differences.TRACE_LEVEL_UNKNOWN,
    ),
    case("the file of traces", _trace({"trace_file": ("/tmp/t.json",)}, Code.UNIMPLEMENTED, "trace_file")),
    case(
        "the log settings, as the server starts",
        _log(
            gives=_logs(
                log_info=True,
                log_warning=True,
                log_error=True,
                log_verbose_level=0,
                log_format="default",
                log_file="",
            )
        ),
    ),
    *(
        case(
            f"{key} goes off and on",
            _log({key: False}, gives=_logs(**{key: False})),
            _log(gives=_logs(**{key: False})),
            _log({key: True}, gives=_logs(**{key: True})),
        )
        for key in ("log_info", "log_warning", "log_error")
    ),
    case(
        "verbose",
        _log({"log_verbose_level": 1}, gives=_logs(log_verbose_level=1)),
        undo=(_log({"log_verbose_level": 0}),),
    ),
    case(
        "a format",
        _log({"log_format": "ISO8601"}, gives=_logs(log_format="ISO8601")),
        undo=(_log({"log_format": "default"}),),
    ),
    _refused_log(
        "a log setting that nobody knows",
        {"nope": True},
        "nope.*log_info",
        differs=differences.SETTING_UNKNOWN,
    ),
    case("the file of the log", _log({"log_file": "/tmp/x.log"}, Code.UNIMPLEMENTED, "log_file")),
    _refused_log("log_info that is a text", {"log_info": "x"}, "log_info"),
    _refused_log("log_info that is nothing", {"log_info": None}, "log_info"),
    _refused_log("log_verbose_level that is a truth", {"log_verbose_level": True}, "log_verbose_level"),
    _refused_log("a format that nobody knows", {"log_format": "x"}, "log_format"),
]
