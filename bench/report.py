"""What was measured, as JSON lines for plotting and as tables of medians for reading."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table


class Mode(enum.StrEnum):
    """How the load was made, and with it what `Measurement.load` says."""

    CLOSED = "closed"
    """`load` is the number of calls in flight."""
    STREAM = "stream"
    """`load` is the number of messages in flight in one stream; a message counts as a request."""
    OPEN = "open"
    """`load` is the number of calls a second that were sent."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one server under one load."""

    model: str
    mode: Mode
    loader: str
    """The program that made the load."""
    rows: int
    """In a request."""
    load: float
    server: str
    repeat: int
    requests_per_second: float
    megabytes_per_second: float
    """Of requests, taken in."""
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    """CPU time of all of the server's processes, for one request."""
    mean_batch: float | None
    load_cpu_share: float
    """What the load generator used of one core."""
    failed: int


@dataclass(frozen=True, slots=True)
class CoreMeasurement:
    """The core alone: microseconds of one core for one request."""

    model: str
    engine: str
    batch: int
    repeat: int
    request_us: float


_OURS: Final = "headrace"
_LEGEND: Final = (
    "medians (least–most); CPU µs: of all of the server's processes, for one request; batch: rows for each "
    "execution; load CPU: what the load generator used of one core"
)
_HEADS: Final = {
    Mode.CLOSED: ("closed loop by {loader}", "in flight", "requests/s"),
    Mode.STREAM: ("one stream of messages by {loader}", "in flight", "messages/s"),
    Mode.OPEN: ("open loop by {loader}, latency from when a call was due", "sent/s", "requests/s"),
}


def print_tables(console: Console, runs: Sequence[Measurement], core: Sequence[CoreMeasurement]) -> None:
    """Print a table for each way in which each model was loaded, then the core's, then ratios."""
    ways = _by_way(runs)
    for title, chosen in ways.items():
        console.print(_table(title, chosen))
    if core:
        console.print(_core_table(core))
    if runs:
        console.print(_LEGEND)
    if ratios := _ratio_table(ways):
        console.print(ratios)


def _by_way(runs: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Return the runs of each table by its title."""
    ways: dict[str, list[Measurement]] = {}
    for run in runs:
        rows = f", {run.rows} rows a request" if run.rows > 1 else ""
        title = f"{run.model}, {_HEADS[run.mode][0].format(loader=run.loader)}{rows}"
        ways.setdefault(title, []).append(run)
    return ways


def _ratio_table(ways: Mapping[str, Sequence[Measurement]]) -> Table | None:
    """Say how many times the others' requests a second are ours; None without ours and others."""
    closed = {title: runs for title, runs in ways.items() if runs[0].mode is not Mode.OPEN}
    servers = dict.fromkeys(run.server for runs in closed.values() for run in runs)
    others = [server for server in servers if server != _OURS]
    if _OURS not in servers or not others:
        return None
    title = f"requests/s of {_OURS} / of the server, for each turn: medians (least–most)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("load")
    for head in ("in flight", *others):
        table.add_column(head, justify="right", overflow="fold")
    for way, runs in closed.items():
        for load in dict.fromkeys(run.load for run in runs):
            same = [run for run in runs if run.load == load]
            table.add_row(way, f"{load:.0f}", *(_ratio(same, other) for other in others))
        table.add_section()
    return table


def _ratio(runs: Sequence[Measurement], other: str) -> str:
    ours = {run.repeat: run.requests_per_second for run in runs if run.server == _OURS}
    theirs = {run.repeat: run.requests_per_second for run in runs if run.server == other}
    ratios = [ours[repeat] / theirs[repeat] for repeat in ours if theirs.get(repeat)]
    return _spread(ratios, ".2f") if ratios else ""


def _table(title: str, runs: Sequence[Measurement]) -> Table:
    _, load_head, rate_head = _HEADS[runs[0].mode]
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column(load_head, justify="right")
    table.add_column("server")
    for head in (rate_head, "MB/s", "p50 ms", "p99 ms", "CPU µs", "batch", "load CPU", "failed"):
        table.add_column(head, justify="right", overflow="fold")
    for load in dict.fromkeys(run.load for run in runs):
        for server in dict.fromkeys(run.server for run in runs):
            same = [run for run in runs if run.load == load and run.server == server]
            if same:
                table.add_row(f"{load:.0f}", server, *_cells(same))
        table.add_section()
    return table


def _cells(runs: Sequence[Measurement]) -> list[str]:
    batches = [run.mean_batch for run in runs if run.mean_batch is not None]
    return [
        _spread([run.requests_per_second for run in runs], ",.0f"),
        f"{_median(runs, 'megabytes_per_second'):,.0f}",
        _spread([run.p50_ms for run in runs], ".3f"),
        _spread([run.p99_ms for run in runs], ".3f"),
        _spread([run.server_cpu_us for run in runs], ".0f"),
        f"{statistics.median(batches):.1f}" if batches else "",
        f"{_median(runs, 'load_cpu_share'):.0%}",
        str(sum(run.failed for run in runs) or ""),
    ]


def _core_table(core: Sequence[CoreMeasurement]) -> Table:
    table = Table(title="the core in process, one thread, no transport", title_justify="left", box=box.SIMPLE)
    table.add_column("model")
    table.add_column("engine")
    for head in ("batch", "µs/request", "requests/s of one core"):
        table.add_column(head, justify="right")
    for model, engine, batch in dict.fromkeys((run.model, run.engine, run.batch) for run in core):
        times = [
            run.request_us for run in core if (run.model, run.engine, run.batch) == (model, engine, batch)
        ]
        rate = 1e6 / statistics.median(times)
        table.add_row(model, engine, str(batch), _spread(times, ".1f"), f"{rate:,.0f}")
    return table


def _median(runs: Iterable[Any], field: str) -> float:
    return float(statistics.median(getattr(run, field) for run in runs))


def _spread(values: Sequence[float], form: str) -> str:
    """Return the median, with the range where there is more than one value."""
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), form)}–{format(max(values), form)})"
