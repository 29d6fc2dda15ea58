"""The server's settings as flags, one for each, for every command that takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from headrace_cli.failure import ExitCode, failing
from headrace_server.config import OPTIONS, Loaded, load
from headrace_server.options import ConfigError, Option

_METAVARS = {
    "text": "TEXT", "path": "FOLDER", "paths": "FOLDER", "integer": "N", "port": "PORT",
    "number": "NUMBER", "list": "TEXT", "choice": "TEXT",
}  # fmt: skip

SECRETS_EPILOG = "Secrets have no flag: " + ", ".join(option.variable for option in OPTIONS if option.secret)


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--config`, its argument `file`, and the flag of each setting."""
    for option in reversed(OPTIONS):
        if not option.secret:
            function = _click_option(option)(function)
    return click.option(
        "--config", "file", type=click.Path(path_type=Path, dir_okay=False), envvar="HEADRACE_CONFIG",
        help="TOML file of settings; flags and variables go before it. [HEADRACE_CONFIG]",
    )(function)  # fmt: skip


def configured(flags: Mapping[str, Any], file: Path | None) -> Loaded:
    """Return the configuration that these flags, the environment and the file make."""
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    with failing(ConfigError, exit_code=ExitCode.USAGE):
        return load(given, file=file)


def _click_option(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the flag of one setting.

    Values stay texts: `config.load` converts and checks those of every origin alike.
    """
    told = _help(option)
    if option.kind == "switch":
        return click.option(f"{option.flag}/--no-{option.flag[2:]}", option.name, default=None, help=told)
    metavar = "|".join(option.choices) or _METAVARS[option.kind]
    multiple = option.kind in ("list", "paths")
    return click.option(option.flag, option.name, metavar=metavar, multiple=multiple, help=told)


def _help(option: Option) -> str:
    default = ",".join(map(str, option.default)) if isinstance(option.default, tuple) else option.default
    shown = "" if option.kind == "switch" or default in ("", None) else f"default: {default}; "
    return f"{option.help} [{shown}{option.variable}]"
