"""What the commands that ask a model share: whom to ask, for how long, and with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.failure import ExitCode, failing
from headrace_cli.tls_options import tls_options

if TYPE_CHECKING:
    from headrace import Client, Tls

TARGET_HELP = """\b
TARGET is one of:
  127.0.0.1:8001                  a server, or several with commas between
  unix:/run/headrace.sock         a server of this machine
  consul:///inference             all that Consul knows, followed as they change
  consul:///inference?model=NAME  of those, the ones with this model
  dns:///host:8001                every address of a name
"""


_LONGEST_WAIT_SECONDS = 86_400.0
"""A day: what never ends would be told by no error, and gRPC counts deadlines in whole numbers."""


def target_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add TARGET, MODEL and the options that go with them; the function takes `tls`, a Tls or None."""
    for decorate in (
        tls_options,
        click.option(
            "--timeout", "timeout_seconds", type=float, callback=_wait, default=30.0,
            show_default=True, metavar="SECONDS", help="Longest wait for an answer.",
        ),
        click.option("--version", default="", help="Version of the model. [default: the server's choice]"),
        click.argument("model"),
        click.argument("target"),
    ):  # fmt: skip
        function = decorate(function)
    return function


def input_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the three ways to give inputs; the function takes `filling`: "zeros", "random" or None."""

    @wraps(function)
    def with_filling(*, zeros: bool, random: bool, **options: Any) -> Any:
        if zeros and random:
            raise click.UsageError("--zeros and --random exclude each other")
        return function(filling="zeros" if zeros else "random" if random else None, **options)

    decorated: Callable[..., Any] = with_filling
    for decorate in (
        click.option("--random", is_flag=True, help="Make up random inputs."),
        click.option("--zeros", is_flag=True, help="Make up inputs of zeros."),
        click.option(
            "--input", "assignments", multiple=True, metavar="NAME=VALUE",
            help="A JSON literal, @FILE.npy, @FILE.json or @- (standard input); may be repeated. "
            "NAME= may be left out where the model has one input.",
        ),
    ):  # fmt: skip
        decorated = decorate(decorated)
    return decorated


@contextmanager
def connected(target: str, timeout_seconds: float, tls: Tls | None) -> Iterator[Client]:
    """Open a client; its failures become errors of the command."""
    from headrace import Client, HeadraceError, NotSupported

    with (
        failing(HeadraceError),
        failing(ValueError, NotSupported, exit_code=ExitCode.USAGE),
        Client(target, timeout_seconds=timeout_seconds, tls=tls) as client,
    ):
        yield client


def _wait(_context: click.Context, _parameter: click.Parameter, seconds: float) -> float:
    if not 0 < seconds <= _LONGEST_WAIT_SECONDS:
        raise click.BadParameter(
            f"{seconds:g} came, expected seconds above 0 and up to {_LONGEST_WAIT_SECONDS:.0f}"
        )
    return seconds
