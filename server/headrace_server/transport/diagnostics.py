"""LogSettings and TraceSetting: what the protocol's messages say, passed to whoever logs and traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.transport.control import Procedure

LogValue = bool | int | str


class LogControl(Protocol):
    """The log of this process."""

    def settings(self) -> Mapping[str, LogValue]:
        """Return every setting by its name in the protocol."""

    def change(self, values: Mapping[str, LogValue | None]) -> None:
        """Change these settings at once; None stands for one that came without a value.

        Raises InvalidInput or NotSupported, and changes nothing then.
        """


class TraceControl(Protocol):
    """The tracing of requests; no model means the server's own settings."""

    def settings(self, model: str) -> Mapping[str, Sequence[str]]:
        """Return the settings in force by their names in the protocol. Raises ModelNotFound."""

    def change(self, model: str, values: Mapping[str, Sequence[str]]) -> None:
        """Change these settings at once; one without texts is cleared.

        Raises ModelNotFound, InvalidInput or NotSupported, and changes nothing then.
        """


class Diagnostics:
    """Answers the two procedures, each with all settings that are then in force."""

    def __init__(self, log: LogControl, traces: TraceControl) -> None:
        self._log = log
        self._traces = traces

    def procedures(self) -> dict[str, Procedure]:
        """Return the procedures by name."""
        return {
            "TraceSetting": Procedure(pb.TraceSettingRequest, self._trace_setting, extension="trace"),
            "LogSettings": Procedure(pb.LogSettingsRequest, self._log_settings, extension="logging"),
        }

    def _log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        self._log.change({name: _value(setting) for name, setting in request.settings.items()})
        answer = pb.LogSettingsResponse()
        for name, value in self._log.settings().items():
            setting = answer.settings[name]
            if isinstance(value, bool):
                setting.bool_param = value
            elif isinstance(value, int):
                setting.uint32_param = value
            else:
                setting.string_param = value
        return answer

    def _trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        model = request.model_name
        self._traces.change(model, {name: setting.value for name, setting in request.settings.items()})
        answer = pb.TraceSettingResponse()
        for name, texts in self._traces.settings(model).items():
            answer.settings[name].value.extend(texts)
        return answer


def _value(setting: pb.LogSettingsRequest.SettingValue) -> LogValue | None:
    kind = setting.WhichOneof("parameter_choice")
    value: LogValue | None = None if kind is None else getattr(setting, kind)
    return value
