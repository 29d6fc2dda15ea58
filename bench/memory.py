"""Whether the server's memory grows with the requests that it has answered, and what open calls cost.

python -m bench.memory --total 1000000
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench import open_calls
from bench.load import LoadError, fixed_number
from bench.models import MODELS, write_repository
from bench.open_calls import OpenCallsError
from bench.servers import ServerError, headrace, start

_TRANSPORTS: Final = ("completion-queue", "aio")
_IN_FLIGHT: Final = 32
_MIB: Final = 1 << 20
_INTERRUPTED: Final = 130

Row = dict[str, int | float]


def main() -> int:
    """Print the resident memory along the requests, and with calls open; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--transport", choices=_TRANSPORTS, action="append", help="may be repeated; default: both"
    )
    parser.add_argument(
        "--first", type=int, default=10_000, help="requests before the first look; default: 10000"
    )
    parser.add_argument("--total", type=int, default=100_000, help="requests in all; default: 100000")
    parser.add_argument("--looks", type=int, default=5, help="after the first one; default: 5")
    parser.add_argument(
        "--open", type=int, default=10_000, help="calls open at once; default: 10000, 0: none"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of opening them; default: 3")
    parser.add_argument("--json", type=Path, help="append each row to this file, as a line of JSON")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped then, too
    console = Console()
    try:
        for transport in given.transport or _TRANSPORTS:
            with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
                _show(console, f"{transport}, answered", _growth(transport, Path(folder), given), given)
            if given.open:
                with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
                    _show(console, f"{transport}, open", _held(transport, Path(folder), given), given)
    except (LoadError, OpenCallsError, ServerError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _growth(transport: str, work: Path, given: argparse.Namespace) -> Iterator[Row]:
    """Send the requests in as many parts as there are looks."""
    model = MODELS["mlp-small"]
    write_repository(work / "models", [model])
    with start(headrace(transport, "--grpc-transport", transport), model, work) as server:
        target = server.target()
        sent = first = 0
        for look in range(given.looks + 1):
            total = given.first + (given.total - given.first) * look // max(1, given.looks)
            load = fixed_number(target, _IN_FLIGHT, total - sent)
            sent = total
            rss_bytes = server.rss_bytes()
            first = first or rss_bytes
            yield {
                "requests": sent, "failed": load.failed,
                "rss_mib": rss_bytes / _MIB, "growth_mib": (rss_bytes - first) / _MIB,
            }  # fmt: skip


def _held(transport: str, work: Path, given: argparse.Namespace) -> Iterator[Row]:
    """Open the calls, let them be answered, and that again."""
    flags = ("--grpc-transport", transport)
    least = 0
    for number, held in enumerate(open_calls.measure(transport, given.open, given.rounds, work, *flags), 1):
        least = least or held.before
        yield {
            "open": given.open, "round": number, "before_mib": held.before / _MIB,
            "open_mib": held.at / _MIB, "after_mib": held.after / _MIB,
            "kib_a_call": (held.at - least) / given.open / 1024,
        }  # fmt: skip


def _show(console: Console, title: str, rows: Iterator[Row], given: argparse.Namespace) -> None:
    """Print a table that grows with the rows."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    with Live(table, console=console):
        for row in rows:
            if given.json:
                with given.json.open("a") as file:
                    file.write(json.dumps({"memory": title, **row}) + "\n")
            if not table.columns:
                for name in row:
                    table.add_column(name.replace("_", " "), justify="right")
            table.add_row(
                *(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in row.values())
            )
    console.print()


if __name__ == "__main__":
    sys.exit(main())
