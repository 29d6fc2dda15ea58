"""`headrace demo`: all of it at work."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from headrace_cli import console
from headrace_cli.cache import cache_option
from headrace_cli.failure import ExitCode, failing, needs


@click.command(name="demo")
@click.option("--exit", "stops_itself", is_flag=True, help="Stop after the table instead of serving on.")
@click.option(
    "--workdir", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Where the model, the rows and the logs go. [default: `demo` in the cache]",
)  # fmt: skip
@click.option(
    "--consul-program", default="", envvar="CONSUL_BIN", metavar="FILE",
    help="The consul to run if no agent answers. [default: .tools/consul/bin/consul, or PATH; CONSUL_BIN]",
)  # fmt: skip
@cache_option
def command(stops_itself: bool, workdir: Path | None, consul_program: str, cache: Path) -> int:
    """Build, serve, find and stream a real model, and check every step.

    A classifier of scanned digits is trained, quantised and measured (the first time: then it comes from
    the cache), served on a free port, registered in Consul, looked up there, and asked for thousands of
    predictions over one stream. The agent is the one at CONSUL_HTTP_ADDR; if none answers, one is run for
    the demo, and if there is no consul to run it goes on without. Nothing outlives the demo.

    The exit code is 0 only if every check held.

    \b
    Examples:
      headrace demo
      headrace demo --exit
    """
    with needs("cpu,build"):
        from headrace import HeadraceError
        from headrace_cli.demo.story import Stage, play
        from headrace_cli.demo.telling import Telling
        from headrace_engines.errors import EngineError

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    stage = Stage((workdir or cache / "demo").absolute(), cache, consul_program, stops_itself)
    with failing(HeadraceError, EngineError, OSError):
        return ExitCode.OK if play(stage, Telling(console.results())) else ExitCode.FAILED


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
