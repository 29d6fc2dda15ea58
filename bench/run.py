"""The order of measurements: servers take turns, so that the machine's moods meet all of them."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from rich.progress import Progress

from bench import core_path
from bench.load import Load, closed_loop, open_loop
from bench.models import Mlp, write_repository
from bench.report import CoreMeasurement, Measurement, Mode
from bench.servers import Kind, Server, start

_CORE_BATCHES: Final = (1, 8, 32, 64)
_CORE_REQUESTS: Final = 20_000
_SETTLE_SECONDS: Final = 0.2
"""Between runs: a server still ends what the last one left behind."""

_Result = TypeVar("_Result", Measurement, CoreMeasurement)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `rates` are shares of the slowest gRPC server's closed-loop capacity.

    The open loop is for servers that speak gRPC.
    """

    models: Sequence[Mlp]
    kinds: Sequence[Kind]
    in_flight: Sequence[int]
    rates: Sequence[float]
    repeats: int
    seconds: float
    with_core: bool

    @property
    def steps(self) -> int:
        """How many runs there are in all."""
        runs = len(self.in_flight) * len(self.kinds)
        runs += len(self.rates) * sum(kind.is_grpc for kind in self.kinds)
        core = len(_CORE_BATCHES) * 2 if self.with_core else 0
        return len(self.models) * self.repeats * (runs + core)


class Bench:
    """Runs a plan; results are kept, and written as JSON lines to a file as soon as they are there."""

    def __init__(self, plan: Plan, work: Path, json_file: Path | None, progress: Progress) -> None:
        self.runs: list[Measurement] = []
        self.core: list[CoreMeasurement] = []
        self._plan = plan
        self._work = work
        self._json_file = json_file
        self._progress = progress
        self._task = progress.add_task("", total=plan.steps)

    def run(self) -> None:
        """Measure everything."""
        write_repository(self._work / "all", self._plan.models)
        for model in self._plan.models:
            if self._plan.kinds:
                self._measure_servers(model)
            if self._plan.with_core:
                self._measure_core(model)

    def _measure_servers(self, model: Mlp) -> None:
        work = self._work / model.name
        write_repository(work / "models", [model])
        with contextlib.ExitStack() as stack:
            servers = []
            for kind in self._plan.kinds:
                self._say(f"{model.name}: {kind.name} starts")
                servers.append(stack.enter_context(start(kind, model, work)))
            for server in servers:
                closed_loop(server.target, 8, min(1.0, self._plan.seconds))
            for in_flight in self._plan.in_flight:
                self._alternate(servers, model, Mode.CLOSED, in_flight)
            for rate in self._open_rates(model):
                self._alternate([server for server in servers if server.kind.is_grpc], model, Mode.OPEN, rate)

    def _open_rates(self, model: Mlp) -> list[float]:
        """Return calls a second that every server of the open loop can answer."""
        rates: dict[tuple[str, float], list[float]] = {}
        for run in self.runs:
            if run.model == model.name and run.mode is Mode.CLOSED:
                rates.setdefault((run.server, run.load), []).append(run.requests_per_second)
        capacity: dict[str, float] = {}
        for (server, _), values in rates.items():
            capacity[server] = max(capacity.get(server, 0.0), statistics.median(values))
        least = min((capacity[kind.name] for kind in self._plan.kinds if kind.is_grpc), default=0.0)
        return [round(share * least) for share in self._plan.rates if least]

    def _alternate(self, servers: Sequence[Server], model: Mlp, mode: Mode, load: float) -> None:
        for repeat in range(self._plan.repeats):
            first = repeat % len(servers)
            for server in (*servers[first:], *servers[:first]):
                self._say(f"{model.name}: {server.kind.name}, {mode}, {load:.0f}")
                self._keep(self._measure(server, model, mode, load, repeat), self.runs)

    def _measure(self, server: Server, model: Mlp, mode: Mode, load: float, repeat: int) -> Measurement:
        time.sleep(_SETTLE_SECONDS)
        cpu_before, batches_before = server.cpu_seconds(), server.batches()
        if mode is Mode.CLOSED:
            result = closed_loop(server.target, int(load), self._plan.seconds)
        else:
            result = open_loop(server.target, load, self._plan.seconds)
        cpu_seconds = server.cpu_seconds() - cpu_before
        batches = _mean_batch(batches_before, server.batches())
        return _measurement(model, mode, load, server, repeat, result, cpu_seconds, batches)

    def _measure_core(self, model: Mlp) -> None:
        engines = core_path.engines(model, self._work / "all")
        for repeat in range(self._plan.repeats):
            for name, make in engines.items():
                for batch in _CORE_BATCHES:
                    self._say(f"{model.name}: the core, {name}, batches of {batch}")
                    request_us = core_path.measure(model, make(), batch, _CORE_REQUESTS)
                    self._keep(CoreMeasurement(model.name, name, batch, repeat, request_us), self.core)

    def _keep(self, result: _Result, results: list[_Result]) -> None:
        results.append(result)
        self._progress.advance(self._task)
        if self._json_file:
            with self._json_file.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")

    def _say(self, what: str) -> None:
        self._progress.update(self._task, description=what)


def _measurement(
    model: Mlp, mode: Mode, load: float, server: Server, repeat: int, result: Load, cpu_seconds: float,
    mean_batch: float | None,
) -> Measurement:  # fmt: skip
    answered = max(1, result.replies + result.failed)
    return Measurement(
        model=model.name,
        mode=mode,
        load=load,
        server=server.kind.name,
        repeat=repeat,
        requests_per_second=result.replies / result.seconds,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        server_cpu_us=cpu_seconds * 1e6 / answered,
        mean_batch=mean_batch,
        load_cpu_share=result.cpu_share,
        failed=result.failed,
    )


def _mean_batch(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Return rows for each execution in between, where the server counts them."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
