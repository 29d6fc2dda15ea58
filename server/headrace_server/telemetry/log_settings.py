"""Changes to the log of a running server, in the protocol's terms, all checked before any is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from headrace_server.errors import InvalidInput, NotSupported
from headrace_server.telemetry.logs import Log, LogSettings
from headrace_server.telemetry.refusals import unknown_setting

Value = bool | int | str

_FILE: Final = "log_file"
_KINDS: Final = {setting.name: type(setting.default) for setting in dataclasses.fields(LogSettings)}
_EXPECTED: Final[Mapping[type, str]] = {
    bool: "true or false (bool_param)", int: "a whole number (uint32_param)", str: "a text (string_param)",
}  # fmt: skip
_FORMATS: Final = ("default", "ISO8601")


class LogControl:
    """Tells and changes what one process logs."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def settings(self) -> Mapping[str, Value]:
        """Return every setting by its name in the protocol."""
        return {_FILE: "", **dataclasses.asdict(self._log.settings)}

    def change(self, values: Mapping[str, Value | None]) -> None:
        """Change these settings at once; None stands for a setting that came without a value.

        Raises InvalidInput, or NotSupported for what cannot be changed; nothing has changed then.
        """
        changes: dict[str, Any] = {}  # `_check` holds each against the type that the setting has
        for name, value in values.items():
            self._check(name, value)
            changes[name] = value
        if changes:
            self._log.change(dataclasses.replace(self._log.settings, **changes))

    def _check(self, name: str, value: Value | None) -> None:
        if name == _FILE:
            raise NotSupported(f"{_FILE} cannot be changed: the server logs to its standard error")
        if name not in _KINDS:
            raise unknown_setting("log setting", name, (_FILE, *_KINDS))
        if type(value) is not _KINDS[name]:
            came = "no value" if value is None else f"{value!r}"
            raise InvalidInput(f"{name}: {came} came, {_EXPECTED[_KINDS[name]]} is expected")
        if name == "log_format":
            self._check_format(str(value))

    def _check_format(self, value: str) -> None:
        if value not in _FORMATS:
            raise InvalidInput(f"log_format: {value!r} came, one of {', '.join(_FORMATS)} is expected")
        if self._log.is_json and value == "default":
            raise InvalidInput(
                "log_format: 'default' came, ISO8601 is expected: the server logs JSON lines, with such times"
            )
