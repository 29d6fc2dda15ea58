"""What is traced, in the protocol's terms: each setting is a list of texts, and an empty one clears it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace_server.errors import InvalidInput, NotSupported
from headrace_server.telemetry.refusals import unknown_setting

OFF: Final = "OFF"
TIMESTAMPS: Final = "TIMESTAMPS"
FILE: Final = "trace_file"
MODE: Final = "trace_mode"
THE_MODE: Final = "triton"
"""The only one: traces in the form that Triton writes."""

_LEAST_AND_MOST: Final = {
    "trace_rate": (1, 2**32 - 1), "trace_count": (-1, 2**31 - 1), "log_frequency": (0, 2**32 - 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """The settings in force for the server or for one model; the names are the protocol's."""

    trace_level: str = OFF
    trace_rate: int = 1000
    """One request in so many is traced."""
    trace_count: int = -1
    """Traces still to be made; -1 is no end."""
    log_frequency: int = 0
    """Traces in a file before the next one is begun; 0 puts all into one."""

    @property
    def is_on(self) -> bool:
        """Whether anything is traced."""
        return self.trace_level != OFF and self.trace_count != 0


Change = str | int | None
"""A setting's new value, or None where it is cleared."""


def parse(values: Mapping[str, Sequence[str]]) -> dict[str, Change]:
    """Return what the texts say, by the names of `TraceSettings`.

    Raises InvalidInput naming the setting, what came and what was expected, or NotSupported.
    """
    changes: dict[str, Change] = {}
    for name, texts in values.items():
        if name == FILE:
            raise NotSupported(f"{FILE} cannot be changed while the server runs: it is set by --trace-file")
        if name == MODE:
            _check_mode(texts)
        elif name == "trace_level":
            changes[name] = _level(texts)
        elif name in _LEAST_AND_MOST:
            changes[name] = _whole_number(name, texts)
        else:
            raise unknown_setting("trace setting", name, ("trace_level", *_LEAST_AND_MOST, FILE, MODE))
    return changes


def _check_mode(texts: Sequence[str]) -> None:
    if any(text != THE_MODE for text in texts):
        raise NotSupported(f"{MODE}: {', '.join(texts)} came, {THE_MODE} is the only mode that is supported")


def _level(texts: Sequence[str]) -> str | None:
    if not texts:
        return None
    for text in texts:
        if text == "TENSORS":
            raise NotSupported("trace_level: tracing of tensors (TENSORS) is not supported")
        if text not in (OFF, TIMESTAMPS):
            raise InvalidInput(f"trace_level: {text!r} came, {OFF} or {TIMESTAMPS} is expected")
    if len(set(texts)) > 1:
        raise InvalidInput(f"trace_level: {', '.join(texts)} came, {OFF} is expected alone")
    return texts[0]


def _whole_number(name: str, texts: Sequence[str]) -> int | None:
    if not texts:
        return None
    least, most = _LEAST_AND_MOST[name]
    text = texts[0]
    if len(texts) == 1 and re.fullmatch(r"-?[0-9]{1,10}", text) and least <= int(text) <= most:
        return int(text)
    came = ", ".join(map(repr, texts))
    raise InvalidInput(f"{name}: {came} came, one whole number from {least} to {most} is expected")
