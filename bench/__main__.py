"""The command `python -m bench`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import grpc
from rich.console import Console
from rich.progress import Progress

import headrace_server
from bench.h2load import H2LOAD
from bench.load import GENERATOR, Loader
from bench.models import MODELS
from bench.peers import PEERS, is_installed
from bench.perf_analyzer import PERF_ANALYZER
from bench.plan import Plan
from bench.report import print_tables
from bench.run import Bench
from bench.servers import KINDS, ServerError
from headrace_server.transport.choice import TransportKind, chosen

_CORE: Final = "core"
_LOADERS: Final = {loader.name: loader for loader in (H2LOAD, PERF_ANALYZER, GENERATOR)}
_IN_FLIGHT: Final = (1, 8, 32, 128)
_RATES: Final = (0.2, 0.4, 0.6)
_FULL_ROWS: Final = (1, 32)
_QUICK_SECONDS: Final = 0.7
_QUICK_REPEATS: Final = 2
_AROUND_RUN_SECONDS: Final = 0.6
_PIPE_COLUMNS: Final = 220
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for, print the tables, and return the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped then, too
    try:
        plan = _plan(given)
    except MissingError as error:
        parser.error(str(error))
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    folder = Path(headrace_server.__file__).parent
    transport = chosen(TransportKind.AUTO).value
    console.print(f"headrace: {folder}, on {transport}, grpcio {grpc.__version__}", highlight=False)
    minutes = plan.runs * (plan.seconds + _AROUND_RUN_SECONDS) / 60
    console.print(f"{plan.runs} runs of {plan.seconds:g} s: about {minutes:.0f} minutes", highlight=False)
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as work,
        Progress(console=console) as progress,
    ):
        bench = Bench(plan, Path(work), given.json, progress)
        code = _run(bench, console)
    print_tables(console, bench.runs, bench.core)
    return code


class MissingError(Exception):
    """Something that was asked for is not on this machine; the text says how to get it."""


def _run(bench: Bench, console: Console) -> int:
    """Measure; what there is can be shown however it ends."""
    try:
        bench.run()
    except ServerError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 1 if bench.problems else 0


def _plan(given: argparse.Namespace) -> Plan:
    """Return what to measure. Raises MissingError for what was named and is not here."""
    installed = [name for name, kind in PEERS.items() if is_installed(kind)]
    servers = given.servers or [*KINDS, *(installed if given.full else ()), _CORE]
    for name in servers:
        if name in PEERS and name not in installed:
            raise MissingError(f"{name} is not here; `python -m bench.peers.setup` installs it")
    known = {**KINDS, **PEERS}
    full_rows, streams = (_FULL_ROWS, given.in_flight) if given.full else ((1,), ())
    return Plan(
        models=[MODELS[name] for name in given.models],
        kinds=[known[name] for name in servers if name != _CORE],
        loaders=_loaders(given.load, full=given.full),
        in_flight=given.in_flight,
        rows=full_rows if given.rows is None else given.rows,
        stream_in_flight=streams if given.stream_in_flight is None else given.stream_in_flight,
        rates=given.rates,
        repeats=_QUICK_REPEATS if given.quick else given.repeats,
        seconds=_QUICK_SECONDS if given.quick else given.seconds,
        with_core=_CORE in servers,
    )


def _loaders(names: Sequence[str] | None, *, full: bool) -> list[Loader]:
    """Return the programs that make closed loops."""
    for name in names or ():
        if _LOADERS[name].path() is None:
            raise MissingError(f"{name} is not here; {_LOADERS[name].advice}")
    if names:
        return [_LOADERS[name] for name in names]
    first = H2LOAD if H2LOAD.path() else GENERATOR
    return [first, PERF_ANALYZER] if full and PERF_ANALYZER.path() else [first]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare the server with others, and time its core without a transport. Servers run side "
        "by side and take turns; tables show medians and ranges.",
    )
    servers = [*KINDS, *PEERS, _CORE]
    add = parser.add_argument
    add(
        "--servers",
        type=_among(servers),
        help=f"of {','.join(servers)}; default: headrace,headrace-aio,echo,core",
    )
    add("--models", type=_among(MODELS), default=[*MODELS], help=f"of {','.join(MODELS)}; default: all")
    load = f"closed loops by which of {','.join(_LOADERS)}; default: h2load, and generator without it"
    add("--load", type=_among(_LOADERS), help=load)
    add("--in-flight", type=_integers, default=_IN_FLIGHT, help="default: 1,8,32,128")
    add("--rows", type=_integers, help="rows in a request; default: 1")
    add("--stream-in-flight", type=_integers, help="messages in flight in one stream; default: no streams")
    rates = "open loop: shares of what the slowest server answers in the closed loop; default: 0.2,0.4,0.6"
    add("--rates", type=_numbers, default=_RATES, help=rates)
    add("--repeats", type=int, default=5, help="default: 5")
    add("--seconds", type=float, default=2.0, help="of each run; default: 2")
    add("--quick", action="store_true", help="2 repeats of 0.7 seconds")
    full = "all that is here: peers, perf_analyzer, streams, and requests of 32 rows"
    add("--full", action="store_true", help=full)
    add("--json", type=Path, help="append each run to this file, as a line of JSON")
    return parser


def _among(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a reader of names with commas between them, all of which must be known."""
    choices = list(known)

    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(choices)}")
        return text.split(",")

    return names


def _integers(text: str) -> list[int]:
    return [int(item) for item in text.split(",") if item]


def _numbers(text: str) -> list[float]:
    return [float(item) for item in text.split(",") if item]


if __name__ == "__main__":
    sys.exit(main())
