"""What the commands that ask a model share: whom to ask, for how long, and with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.failure import ExitCode, failing

if TYPE_CHECKING:
    from headrace import Client

TARGET_HELP = """\b
TARGET is one of:
  127.0.0.1:8001                  a server, or several with commas between
  consul:///inference             all that Consul knows, followed as they change
  consul:///inference?model=NAME  of those, the ones with this model
  dns:///host:8001                every address of a name
"""


def target_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add TARGET, MODEL and the options that go with them."""
    for decorate in (
        click.option(
            "--timeout", "timeout_seconds", type=click.FloatRange(min=0, min_open=True), default=30.0,
            show_default=True, metavar="SECONDS", help="Longest wait for an answer.",
        ),
        click.option("--version", default="", help="Version of the model. [default: the server's choice]"),
        click.argument("model"),
        click.argument("target"),
    ):  # fmt: skip
        function = decorate(function)
    return function


def input_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the three ways to give inputs."""
    for decorate in (
        click.option("--random", "filling", flag_value="random", help="Make up random inputs."),
        click.option("--zeros", "filling", flag_value="zeros", help="Make up inputs of zeros."),
        click.option(
            "--input", "assignments", multiple=True, metavar="NAME=VALUE",
            help="A JSON literal, @FILE.npy, @FILE.json or @- (standard input); may be repeated. "
            "NAME= may be left out where the model has one input.",
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function


@contextmanager
def connected(target: str, timeout_seconds: float) -> Iterator[Client]:
    """Open a client; its failures become errors of the command."""
    from headrace import Client, HeadraceError, NotSupported

    with (
        failing(HeadraceError),
        failing(ValueError, NotSupported, exit_code=ExitCode.USAGE),
        Client(target, timeout_seconds=timeout_seconds) as client,
    ):
        yield client
