"""The server's configuration as it came out: every setting, its value and its origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from headrace_cli import console
from headrace_server.config import OPTIONS, Loaded

_HIDDEN: Final = "(hidden)"


def show(loaded: Loaded, *, as_json: bool = False) -> None:
    """Print each setting, its value, and the flag, variable or key that it comes from; secrets are hidden.

    What gRPC's core is told by variables stands behind them.
    """
    values = {option.name: getattr(loaded.config, option.name) for option in OPTIONS}
    for option in OPTIONS:
        if option.secret and values[option.name]:
            values[option.name] = _HIDDEN
    told = {name: (value, loaded.origins[name]) for name, value in values.items()}
    told.update(loaded.grpc)
    if as_json:
        settings = {
            name: {"value": _plain(value), "origin": origin} for name, (value, origin) in told.items()
        }
        click.echo(json.dumps(settings, indent=2))
        return
    rows = [(name, _told(value), origin) for name, (value, origin) in told.items()]
    console.results().print(console.table(("Setting", "Value", "From"), rows))


def _plain(value: Any) -> Any:
    """Return a setting's value as JSON has it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _told(value: Any) -> str:
    """Return a setting's value as the file of settings has it."""
    return json.dumps(_plain(value), ensure_ascii=False)
