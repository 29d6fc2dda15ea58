"""`headrace serve`: its options are the fields of the server's configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headrace_cli.failure import ExitCode, failing, needs
from headrace_server.config import OPTIONS, load, prepare_grpc
from headrace_server.options import ConfigError, Option

_METAVARS = {
    "text": "TEXT", "path": "FOLDER", "paths": "FOLDER", "integer": "N", "port": "PORT",
    "number": "NUMBER", "list": "TEXT", "choice": "TEXT",
}  # fmt: skip


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


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        if not option.secret:
            function = _click_option(option)(function)
    return function


@click.command(
    name="serve", epilog="Secrets have no flag: " + ", ".join(o.variable for o in OPTIONS if o.secret)
)
@click.option(
    "--config", "file", type=click.Path(path_type=Path, dir_okay=False), envvar="HEADRACE_CONFIG",
    help="TOML file of settings; flags and variables go before it. [HEADRACE_CONFIG]",
)  # fmt: skip
@_with_options
def command(file: Path | None, **flags: Any) -> int:
    """Serve a folder of models over gRPC.

    Models stand in the folder as MODEL/VERSION/model.onnx. When all are loaded and warmed up, one JSON
    line on stdout tells the address. SIGTERM or Ctrl-C drains and stops; a second one stops at once.

    \b
    Examples:
      headrace serve --model-repository models
      headrace serve --model-repository models --grpc-port 0
      headrace serve --model-repository models --host 0.0.0.0 --advertise 10.0.0.7 --consul
      HEADRACE_LOG_FORMAT=json headrace serve --config headrace.toml
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    with failing(ConfigError, exit_code=ExitCode.USAGE):
        config = load(given, file=file).config
    prepare_grpc()
    with needs("cpu"):
        from headrace_server import app
    return app.run(config)
