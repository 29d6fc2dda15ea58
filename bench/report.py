"""What was measured, as JSON lines for plotting and as tables of medians for reading."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table


class Mode(enum.StrEnum):
    """How the load was made, and with it what `Measurement.load` says."""

    CLOSED = "closed"
    """`load` is the number of calls in flight."""
    OPEN = "open"
    """`load` is the number of calls a second that were sent."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one server under one load."""

    model: str
    mode: Mode
    load: float
    server: str
    repeat: int
    requests_per_second: float
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


_HEADS: Final = {
    Mode.CLOSED: "{model}, closed loop",
    Mode.OPEN: "{model}, open loop: latency from when a call was due",
}
_LEGEND: Final = (
    "medians (least–most); CPU µs: of all of the server's processes, for one request; batch: rows for each "
    "execution; load CPU: what the load generator used of one core"
)
_LOADS: Final = {Mode.CLOSED: "in flight", Mode.OPEN: "sent/s"}


def print_tables(console: Console, runs: Sequence[Measurement], core: Sequence[CoreMeasurement]) -> None:
    """Print a table for each model and mode, then the core's, then what they say together."""
    for model in dict.fromkeys(run.model for run in runs):
        for mode in Mode:
            chosen = [run for run in runs if run.model == model and run.mode is mode]
            if chosen:
                console.print(_table(_HEADS[mode].format(model=model), _LOADS[mode], chosen))
    if core:
        console.print(_core_table(core))
    console.print(_LEGEND)
    for line in comparisons(runs):
        console.print(line, highlight=False)


def comparisons(runs: Sequence[Measurement]) -> Iterator[str]:
    """Say how the server does beside the echo, which answers without inferring anything."""
    for model in dict.fromkeys(run.model for run in runs):
        closed = [run for run in runs if run.model == model and run.mode is Mode.CLOSED]
        for load in dict.fromkeys(run.load for run in closed):
            ours = [run for run in closed if run.load == load and run.server == "headrace"]
            echo = [run for run in closed if run.load == load and run.server == "echo"]
            if ours and echo:
                ratio = _median(ours, "requests_per_second") / _median(echo, "requests_per_second")
                more_us = 1000 * (_median(ours, "p50_ms") - _median(echo, "p50_ms"))
                yield (
                    f"{model}, {load:.0f} in flight: {ratio:.2f} of the echo's requests a second, "
                    f"p50 {more_us:+.0f} µs"
                )


def _table(title: str, load_head: str, runs: Sequence[Measurement]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column(load_head, justify="right")
    table.add_column("server")
    for head in ("requests/s", "p50 ms", "p99 ms", "CPU µs", "batch", "load CPU", "failed"):
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
