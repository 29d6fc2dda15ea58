"""What one setting is, and how a text of the command line, the environment or a file becomes its value."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

PREFIX: Final = "HEADRACE_"
LARGEST_INT32: Final = 2**31 - 1
"""gRPC counts bytes, calls and milliseconds in 32 bits."""

_VARIABLES: Final = {
    "cache": "XDG_CACHE_HOME",
    "consul_address": "CONSUL_HTTP_ADDR",
    "consul_token": "CONSUL_HTTP_TOKEN",
    "consul_cacert": "CONSUL_CACERT",
    "consul_client_cert": "CONSUL_CLIENT_CERT",
    "consul_client_key": "CONSUL_CLIENT_KEY",
    "consul_namespace": "CONSUL_NAMESPACE",
}
_SWITCH_WORDS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class ConfigError(ValueError):
    """A value is wrong; the text names the setting, where it came from, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Option:
    """How one field is given: what the command line and the documentation are made from."""

    name: str
    default: Any
    help: str
    kind: str
    """"text", "path", "paths", "integer", "port", "number", "switch", "list" or "choice"."""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    secret: bool = False
    """Never shown, and no flag: a command line is visible to every process of the machine."""

    @classmethod
    def of(cls, declared: Field[Any]) -> Self:
        """Return the option that a field made by `setting` declares."""
        return cls(declared.name, declared.default, **declared.metadata)

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable; the one that others use too where there is one, such as Consul's."""
        return _VARIABLES.get(self.name, PREFIX + self.name.upper())

    def convert(self, value: Any, origin: str) -> Any:
        """Return the value that a text, or a value of a TOML file, stands for.

        Raises ConfigError naming the origin, what came and what is allowed.
        """
        try:
            converted = _CONVERTERS[self.kind](value)
        except (TypeError, ValueError):
            raise ConfigError(f"{origin}: {value!r} is not {_ARTICLES[self.kind]}") from None
        for item in converted if isinstance(converted, tuple) else (converted,):
            if self.choices and item not in self.choices:
                raise ConfigError(f"{origin}: {item!r} is not one of {', '.join(self.choices)}")
        if self.kind == "port" and not 0 <= converted <= 65535:
            raise ConfigError(f"{origin}: {converted} is no port; 0 to 65535 are")
        if self.least is not None and converted == float("inf"):
            raise ConfigError(f"{origin}: {converted} is out of range; a finite number is expected")
        if self.least is not None and not converted >= self.least:
            raise ConfigError(f"{origin}: {converted} is out of range; the least is {self.least:g}")
        if self.most is not None and converted > self.most:
            raise ConfigError(f"{origin}: {converted} is out of range; the most is {self.most}")
        return converted


def setting(
    default: Any,
    text: str,
    kind: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    secret: bool = False,
) -> Any:
    """Return the dataclass field that declares a setting; the arguments are those of `Option`."""
    told = {
        "help": text, "kind": kind, "choices": choices, "least": least, "most": most, "secret": secret,
    }  # fmt: skip
    return field(default=default, metadata=told)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(value)
    return float(value)


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if (word := str(value).lower()) not in _SWITCH_WORDS:
        raise ValueError(value)
    return _SWITCH_WORDS[word]


def _list(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if isinstance(items, Mapping) or not all(isinstance(item, str) for item in items):
        raise TypeError(value)
    return tuple(item.strip() for item in items if item.strip())


def _paths(value: Any) -> tuple[Path, ...]:
    items = value.split(os.pathsep) if isinstance(value, str) else value
    paths = tuple(Path(item) for item in items if item)
    if not paths:
        raise ValueError(value)
    return paths


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": _text, "choice": _text, "path": Path, "paths": _paths, "integer": _integer, "port": _integer,
    "number": _number, "switch": _switch, "list": _list,
}  # fmt: skip
_ARTICLES: Final = {
    "text": "a text", "choice": "a text", "path": "a path", "paths": "a list of paths",
    "integer": "a whole number", "port": "a whole number", "number": "a number",
    "switch": "true or false", "list": "a list of texts",
}  # fmt: skip
