"""How the server's configuration is read: once, from three places, and checked whole.

Each field of `ServerConfig` is a flag (`--grpc-port`), an environment variable
(`HEADRACE_GRPC_PORT`) and a key of the TOML file (`grpc_port`), in this order of precedence. This is
the only module of the server that reads the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from headrace_engines import files
from headrace_engines.errors import ModelFileError
from headrace_server.config_checks import check
from headrace_server.options import PREFIX, ConfigError, Option
from headrace_server.server_config import ServerConfig

_LARGEST_FILE_BYTES: Final = 1 << 20
_GRPC_VARIABLES: Final = {"GRPC_EXPERIMENTS": "-event_engine_listener", "GRPC_VERBOSITY": "NONE"}
_NEAR: Final = 0.85
"""How much of a name must be there: a letter or two may be wrong."""
OPTIONS: Final[tuple[Option, ...]] = tuple(Option.of(field) for field in fields(ServerConfig))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and for each setting where its value came from."""

    config: ServerConfig
    origins: Mapping[str, str]
    grpc: Mapping[str, tuple[str, str]]
    """Variables by which gRPC's core is told how to poll and what to log, each with its value and origin."""
    doubts: tuple[str, ...]
    """Variables that are probably misspelt."""


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Loaded:
    """Make one configuration from flags, environment and file; the first that says something wins.

    `flags` holds only what was given. Raises ConfigError naming the setting and its origin.
    """
    flags = flags or {}
    environ = os.environ if environ is None else environ
    table = _read(file) if file else {}
    _refuse_unknown(flags, "the command line")
    _refuse_unknown(table, str(file))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        for origin, present, value in (
            (option.flag, option.name in flags, flags.get(option.name)),
            (option.variable, bool(environ.get(option.variable)), environ.get(option.variable)),
            (f"{option.name} in {file}", option.name in table, table.get(option.name)),
        ):
            if present:
                values[option.name] = option.convert(value, origin)
                origins[option.name] = origin
                break
        else:
            origins[option.name] = "default"
    config = ServerConfig(**values)
    check(config, origins)
    grpc = {
        name: (environ[name], name) if name in environ else (value, "default")
        for name, value in _GRPC_VARIABLES.items()
    }
    return Loaded(config, origins, grpc, _doubts(environ))


def prepare_grpc(environ: MutableMapping[str, str] | None = None) -> None:
    """Choose how gRPC's core polls and logs, unless the person has; it reads this when it is first imported.

    Without its experimental listener a call costs a tenth to a fifth less of the processor. Its log is off:
    it would put a line of another format among ours for each client that fails to speak TLS.
    """
    variables = os.environ if environ is None else environ
    for name, value in _GRPC_VARIABLES.items():
        variables.setdefault(name, value)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(files.text(file, _LARGEST_FILE_BYTES))
    except ModelFileError as error:
        reason = str(error).removeprefix(f"{file.name}: ")
        raise ConfigError(f"cannot read the configuration file {file}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not a TOML file: {error}") from error


def _refuse_unknown(given: Mapping[str, Any], origin: str) -> None:
    known = {option.name for option in OPTIONS}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{origin}: there is no setting {name!r}; there are: {', '.join(sorted(known))}"
            )


def _doubts(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return which variables are nearly a setting's.

    None is refused: of a service that is called headrace, orchestrators set HEADRACE_PORT and others.
    """
    variables = {option.name.upper(): option.variable for option in OPTIONS}
    doubts = []
    for variable in sorted(environ):
        name = variable.removeprefix(PREFIX)
        if name == variable or variable in variables.values():
            continue
        if near := get_close_matches(name, variables, n=1, cutoff=_NEAR):
            doubts.append(
                f"{variable} is no setting's variable and says nothing; {variables[near[0]]} is one"
            )
    return tuple(doubts)
