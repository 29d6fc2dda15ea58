"""The command `python -m bench.reload`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench.reload.ledger import Outcome
from bench.reload.storm import EXPLICIT, POLL, Report, StormError, run

_PIPE_COLUMNS: Final = 160
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Let the storms pass, print the tables; return 0 if nothing was lost and nothing wrong."""
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    reports = []
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as work:
            for mode in given.modes:
                report = run(mode, given.operations, given.in_flight, given.poll_seconds, Path(work))
                reports.append(report)
                if given.json:
                    with given.json.open("a") as file:
                        file.write(json.dumps(dataclasses.asdict(report)) + "\n")
    except StormError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    for table in (_outcomes(reports), _operations(reports), _times(reports)):
        console.print(table)
    for complaint in (line for report in reports for line in report.complaints):
        console.print(complaint, style="red", markup=False)
    return 0 if all(report.is_clean for report in reports) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reload",
        description="Load, unload and change two models under unceasing calls, and judge every answer.",
    )
    parser.add_argument("--modes", nargs="+", choices=[EXPLICIT, POLL], default=[EXPLICIT, POLL])
    parser.add_argument("--operations", type=int, default=50, help="in each mode; default: 50")
    parser.add_argument("--in-flight", type=int, default=64, help="half of them in streams; default: 64")
    parser.add_argument(
        "--poll-seconds", type=float, default=0.5, help="between two looks at the folders; default: 0.5"
    )
    parser.add_argument("--json", type=Path, help="append each storm to this file, as a line of JSON")
    return parser


def _outcomes(reports: Sequence[Report]) -> Table:
    table = _table("what became of the calls; refused: with the documented code, while the model was away")
    table.add_column("mode")
    for head in ("in flight", "seconds", "operations", "unary", "streamed", *(one.value for one in Outcome)):
        table.add_column(head, justify="right")
    for report in reports:
        figures = [report.in_flight, round(report.seconds), sum(report.operations.values())]
        figures += [report.calls["unary"], report.calls["streamed"]]
        figures += [report.outcomes[outcome.value] for outcome in Outcome]
        table.add_row(report.mode, *(f"{figure:,}" for figure in figures))
    return table


def _operations(reports: Sequence[Report]) -> Table:
    table = _table("operations on the two models")
    table.add_column("mode")
    table.add_column("operation")
    table.add_column("times", justify="right")
    for report in reports:
        for name, count in report.operations.items():
            table.add_row(report.mode, name, str(count))
    return table


def _times(reports: Sequence[Report]) -> Table:
    table = _table("from a changed file to the first answer out of it")
    table.add_column("way")
    for head in ("changes", "median ms", "most ms"):
        table.add_column(head, justify="right")
    for report in reports:
        for way, seconds in report.serving_seconds.items():
            middle, most = statistics.median(seconds), max(seconds)
            table.add_row(way, str(len(seconds)), f"{1000 * middle:,.0f}", f"{1000 * most:,.0f}")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE)


if __name__ == "__main__":
    sys.exit(main())
