"""The command `python -m bench`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from bench import peers
from bench.load import LoadError, h2load
from bench.models import MODELS
from bench.report import print_tables
from bench.run import Bench, Plan
from bench.servers import KINDS, ServerError

_CORE: Final = "core"
_QUICK_SECONDS: Final = 0.7
_QUICK_REPEATS: Final = 2
_PIPE_COLUMNS: Final = 160
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for, print the tables, and return the exit code."""
    given = _parser().parse_args(arguments)
    plan = _plan(given)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    console.print(
        f"closed loops by {h2load() or 'bench.generator (no h2load on PATH)'}, open loops by bench.generator"
    )
    try:
        with (
            tempfile.TemporaryDirectory(prefix="headrace-bench-") as work,
            Progress(console=console) as progress,
        ):
            bench = Bench(plan, Path(work), given.json, progress)
            bench.run()
    except (LoadError, ServerError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    print_tables(console, bench.runs, bench.core)
    return 0


def _plan(given: argparse.Namespace) -> Plan:
    chosen = [KINDS[name] for name in given.servers if name in KINDS]
    return Plan(
        models=[MODELS[name] for name in given.models],
        kinds=[*chosen, *(peers.kinds() if given.peers else ())],
        in_flight=given.in_flight,
        rates=given.rates,
        repeats=_QUICK_REPEATS if given.quick else given.repeats,
        seconds=_QUICK_SECONDS if given.quick else given.seconds,
        with_core=_CORE in given.servers,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare the server with a bare grpc.aio echo, and time its core without a transport. "
        "Servers run side by side and take turns; tables show medians and ranges.",
    )
    servers = [*KINDS, _CORE]
    parser.add_argument(
        "--servers", type=_among(servers), default=servers, help="default: headrace,headrace-aio,echo,core"
    )
    parser.add_argument(
        "--peers", action="store_true", help="also what `python -m bench.peers.setup` installs"
    )
    parser.add_argument("--models", type=_among(MODELS), default=[*MODELS], help="default: all")
    parser.add_argument("--in-flight", type=_integers, default=[1, 8, 32, 128], help="default: 1,8,32,128")
    rates = "open loop: shares of what the slowest server answers in the closed loop; default: 0.2,0.4,0.6"
    parser.add_argument("--rates", type=_numbers, default=[0.2, 0.4, 0.6], help=rates)
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run; default: 2")
    parser.add_argument("--quick", action="store_true", help="about a minute: 2 repeats of 0.7 seconds")
    parser.add_argument("--json", type=Path, help="append each run to this file, as a line of JSON")
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
    return [int(item) for item in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [float(item) for item in text.split(",") if item]


if __name__ == "__main__":
    sys.exit(main())
