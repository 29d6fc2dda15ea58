"""The order of measurements: servers take turns, so that the machine's moods meet all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final, TypeVar

import grpc
from rich.progress import Progress

from bench import core_path
from bench.load import LoadError, Target, open_loop
from bench.models import Network, request, write_repository
from bench.plan import CORE_BATCHES, Plan, Step
from bench.report import CoreMeasurement, Measurement, Mode
from bench.servers import Kind, Server, ServerError, start

_CORE_REQUESTS: Final = 10_000
"""For each second that a run of a server takes."""
_CORE_BYTES: Final = 1 << 30
"""Of requests, at most: large ones are fewer."""
_WARM_UP_IN_FLIGHT: Final = 8
_SETTLE_SECONDS: Final = 0.2
"""Between runs: a server still ends what the last one left behind."""

_Result = TypeVar("_Result", Measurement, CoreMeasurement)


class Bench:
    """Runs a plan; results are kept, and written as JSON lines to a file as soon as they are there."""

    def __init__(self, plan: Plan, work: Path, json_file: Path | None, progress: Progress) -> None:
        self.runs: list[Measurement] = []
        self.core: list[CoreMeasurement] = []
        self.problems: list[str] = []
        """Of runs that came to nothing."""
        self._plan = plan
        self._work = work
        self._json_file = json_file
        self._progress = progress
        self._task = progress.add_task("", total=plan.runs + plan.core_runs)

    def run(self) -> None:
        """Measure everything."""
        write_repository(self._work / "all", self._plan.models)
        for model in self._plan.models:
            if self._plan.kinds:
                self._measure_servers(model)
            if self._plan.with_core:
                self._measure_core(model)

    def _measure_servers(self, model: Network) -> None:
        work = self._work / model.name
        write_repository(work / "models", [model])
        with contextlib.ExitStack() as stack:

            def begin(kind: Kind) -> Server:
                self._say(f"{model.name}: {kind.name} starts")
                return stack.enter_context(start(kind, model, work))

            servers = {kind.name: begin(kind) for kind in self._plan.kinds}
            warm: set[tuple[Mode, int]] = set()
            for step in self._plan.steps(model):
                for kind in step.kinds:
                    if not servers[kind.name].is_alive:  # that it died has been told
                        servers[kind.name] = begin(kind)
                targets = self._targets(step, servers)
                if step.mode is not Mode.OPEN and (step.mode, step.rows) not in warm:
                    warm.add((step.mode, step.rows))
                    self._warm_up(step, targets)
                self._alternate(self._with_rate(step), targets)

    def _targets(self, step: Step, servers: Mapping[str, Server]) -> dict[Server, Target]:
        """Ask each server for its answer's size; one that has none is left out, and that is told."""
        targets = {}
        for kind in step.kinds:
            server = servers[kind.name]
            try:
                targets[server] = server.target(step.rows, is_stream=step.mode is Mode.STREAM)
            except (grpc.RpcError, OSError) as error:
                self._complain(step, server, error)
        return targets

    def _warm_up(self, step: Step, targets: Mapping[Server, Target]) -> None:
        """Load each server for a while, so that no first call is measured."""
        for server, target in targets.items():
            self._say(f"{step}: {server.kind.name} warms up")
            with contextlib.suppress(LoadError):  # it is told when the same happens in the step
                step.loader.closed_loop(target, _WARM_UP_IN_FLIGHT, min(1.0, self._plan.seconds))

    def _with_rate(self, step: Step) -> Step:
        """Turn the share of an open loop into calls a second that every server of it can answer."""
        if step.mode is not Mode.OPEN:
            return step
        rates: dict[tuple[str, float, str], list[float]] = {}
        for run in self.runs:
            if run.model == step.model.name and run.mode is Mode.CLOSED and run.rows == 1:
                rates.setdefault((run.server, run.load, run.loader), []).append(run.requests_per_second)
        capacity: dict[str, float] = {}
        for (server, _, _), values in rates.items():
            capacity[server] = max(capacity.get(server, 0.0), statistics.median(values))
        least = min((capacity[kind.name] for kind in step.kinds if kind.name in capacity), default=0.0)
        return dataclasses.replace(step, load=round(step.load * least))

    def _alternate(self, step: Step, targets: Mapping[Server, Target]) -> None:
        """Let the servers take turns, and say in a line how they did."""
        servers = list(targets)
        rates: dict[str, list[float]] = {}
        for repeat in range(self._plan.repeats if step.load else 0):
            first = repeat % len(servers) if servers else 0
            for server in (*servers[first:], *servers[:first]):
                self._say(f"{step}: {server.kind.name}")
                try:
                    run = self._measure(server, step, targets[server], repeat)
                except (LoadError, ServerError, grpc.RpcError) as error:
                    self._complain(step, server, error)
                    continue
                self._keep(run, self.runs)
                rates.setdefault(run.server, []).append(run.requests_per_second)
        told = ", ".join(f"{name} {statistics.median(values):,.0f}" for name, values in rates.items())
        self._progress.console.print(f"{step}: {told}", highlight=False, markup=False, soft_wrap=True)

    def _measure(self, server: Server, step: Step, target: Target, repeat: int) -> Measurement:
        time.sleep(_SETTLE_SECONDS)
        before = server.batches()
        if step.mode is Mode.OPEN:
            result = open_loop(target, step.load, self._plan.seconds)
        else:
            result = step.loader.closed_loop(target, int(step.load), self._plan.seconds)
        if not server.is_alive:
            raise ServerError(f"it has exited with {server.process.returncode}")
        batch = _mean_batch(before, server.batches())
        return Measurement(
            model=step.model.name,
            mode=step.mode,
            loader=step.loader.name,
            rows=step.rows,
            load=step.load,
            server=server.kind.name,
            repeat=repeat,
            requests_per_second=result.requests_per_second,
            megabytes_per_second=result.requests_per_second * target.traffic.body_bytes / 1e6,
            p50_ms=result.p50_ms,
            p99_ms=result.p99_ms,
            server_cpu_us=result.server_cpu_us,
            mean_batch=batch,
            load_cpu_share=result.cpu_share,
            failed=result.failed,
        )

    def _measure_core(self, model: Network) -> None:
        engines = core_path.engines(model, self._work / "all")
        requests = min(int(_CORE_REQUESTS * self._plan.seconds), _CORE_BYTES // len(request(model)))
        for repeat in range(self._plan.repeats):
            for name, make in engines.items():
                for batch in CORE_BATCHES:
                    self._say(f"{model.name}: the core, {name}, batches of {batch}")
                    request_us = core_path.measure(model, make(), batch, requests)
                    self._keep(CoreMeasurement(model.name, name, batch, repeat, request_us), self.core)

    def _keep(self, result: _Result, results: list[_Result]) -> None:
        results.append(result)
        self._progress.advance(self._task)
        if self._json_file:
            with self._json_file.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")

    def _say(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def _complain(self, step: Step, server: Server, error: Exception) -> None:
        problem = f"{step}: {server.kind.name}: {error}"
        self.problems.append(problem)
        self._progress.console.print(problem, style="red", markup=False, soft_wrap=True)


def _mean_batch(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Return rows for each execution in between, where the server counts them."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
