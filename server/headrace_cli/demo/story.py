"""What happens in the demo, in order: build, serve, find, stream, stop. Each step is checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headrace_cli.commands.build import bar
from headrace_cli.commands.build import run as run_build
from headrace_cli.console import human_size
from headrace_cli.demo.agent import SERVICE, Agent, consul_agent
from headrace_cli.demo.server import Server, Work, start
from headrace_cli.demo.telling import Telling
from headrace_cli.demo.traffic import Rows, Streamed, alone, stream
from headrace_cli.failure import needs
from headrace_cli.registry import instances
from headrace_engines import folders
from headrace_engines.standing import standings

if TYPE_CHECKING:
    from headrace_engines.build import BuildResult
    from headrace_engines.report import Comparison

MODEL = "digits"
RECIPE = "int8-cpu"
ROUNDS = 10
MAX_IN_FLIGHT = 128
LONE_CALLS = 200


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays."""

    folder: Path
    cache: Path
    consul_program: str
    stops_itself: bool

    @property
    def repository(self) -> Path:
        """The folder of models."""
        return self.folder / "models"


@dataclass(frozen=True, slots=True)
class Measured:
    """What the figures are made of."""

    compared: Comparison
    streamed: Streamed
    alone_seconds: NDArray[np.float64]
    work: Work


def play(stage: Stage, telling: Telling) -> bool:
    """Play the demo; return whether every check held."""
    with folders.writing(stage.folder):
        stage.folder.mkdir(parents=True, exist_ok=True)
    folders.check_writable(stage.folder)
    with ExitStack() as children:
        built = build(stage, telling)
        rows = held_out(stage.folder)
        agent = find_agent(stage, telling, children)
        server = serve(stage, telling, children, agent)
        target = find(telling, agent, server)
        measured = ask(telling, target, server, rows, built.report.comparisons[0])
        telling.figures(figures(measured, agent, server))
        if not stage.stops_itself:
            telling.commands(next_commands(stage, agent, server, target))
            wait(server)
        stop(telling, agent, server)
    telling.verdict()
    return not telling.failed


def build(stage: Stage, telling: Telling) -> BuildResult:
    """Build the model, or find it built."""
    telling.step("Build: a classifier of scanned digits, trained, quantised to INT8, measured")
    began = time.perf_counter()
    with needs("cpu,build"):
        from headrace_engines.build import BuildOptions
    options = BuildOptions(recipes=(RECIPE,))
    with bar() as progress:
        built = run_build(MODEL, MODEL, stage.repository, stage.cache, progress, options)
    origin = "found in the cache" if built.cached else f"built in {time.perf_counter() - began:.1f} s"
    for one in standings(built.manifest, built.report):
        made = one.artefact
        telling.check(one.may_serve, f"{made.recipe}: {one.reason} ({human_size(made.size_bytes)})")
    telling.note(f"{origin}: {built.folder}")
    return built


def held_out(folder: Path) -> Rows:
    """Return the rows that the model never saw; they are also put beside it, for commands to read."""
    from headrace_engines import digits

    samples = digits.held_out()
    np.save(folder / "rows.npy", samples.images)
    np.save(folder / "image.npy", samples.images[0])
    return Rows(digits.INPUT, samples.images, samples.labels)


def find_agent(stage: Stage, telling: Telling, children: ExitStack) -> Agent | None:
    """Find or start a Consul agent; None if there is none to be had."""
    telling.step("Consul: the registry that clients look servers up in")
    agent = children.enter_context(consul_agent(stage.consul_program, stage.folder))
    if isinstance(agent, Agent):
        telling.note(
            f"started an agent at {agent.address}" if agent.address else "an agent is running already"
        )
        return agent
    telling.note(f"going on without: {agent.reason}")
    return None


def serve(stage: Stage, telling: Telling, children: ExitStack, agent: Agent | None) -> Server:
    """Start the server."""
    telling.step("Serve: gRPC, requests that wait are executed together")
    began = time.perf_counter()
    server = start(stage.repository, stage.folder / "server.log", agent.flags if agent else ())
    children.enter_context(server.child)
    telling.note(f"up in {time.perf_counter() - began:.1f} s")
    telling.check(server.is_ready(), f"live and ready at {server.address}")
    health = server.health(MODEL)
    not_serving = [f"{name or 'server'} {status}" for name, status in health.items() if status != "SERVING"]
    telling.check(
        not not_serving, ", ".join(not_serving) or f"standard health check: {len(health)} names serving"
    )
    return server


def find(telling: Telling, agent: Agent | None, server: Server) -> str:
    """Look the server up; return the target that a client uses."""
    if agent is None:
        return server.address
    target = agent.target(MODEL)
    telling.step(f"Find: {target}")
    found = [endpoint for endpoint in instances(SERVICE, agent=agent.address, model=MODEL)
             if endpoint.address == server.address]  # fmt: skip
    telling.check(
        bool(found) and found[0].status.value == "passing",
        f"Consul knows {found[0].id}, {found[0].status.value}, models {found[0].meta.get('models')}"
        if found
        else f"Consul does not know {server.address}",
    )
    return target


def ask(telling: Telling, target: str, server: Server, rows: Rows, compared: Comparison) -> Measured:
    """Ask one by one and over a stream, and compare the answers with what the build measured."""
    from headrace import Client

    telling.step(
        f"Ask: {ROUNDS} times {len(rows.inputs)} held-out digits, {MAX_IN_FLIGHT} in flight on one stream"
    )
    with Client(target) as client:
        alone_seconds = alone(client, MODEL, rows, LONE_CALLS)
        before = server.work(MODEL)
        streamed = stream(client, MODEL, rows, ROUNDS, MAX_IN_FLIGHT)
        work = server.work(MODEL).since(before)
    problems = "; ".join(sorted(set(streamed.failures))[:3])
    telling.check(
        streamed.each_once,
        f"{streamed.sent} requests, each answered exactly once"
        if streamed.each_once
        else f"{len(streamed.failures)} of {streamed.sent} requests failed: {problems}",
    )
    expected = compared.quality.candidate if compared.quality else 0.0
    telling.check(
        abs(streamed.accuracy - expected) < 0.5 / len(rows.inputs),
        f"accuracy of the answers {streamed.accuracy:.4f}, of the build {expected:.4f}",
    )
    telling.check(
        work.rows == streamed.sent, f"the server counts {work.rows} rows in {work.executions} executions"
    )
    return Measured(compared, streamed, alone_seconds, work)


def figures(measured: Measured, agent: Agent | None, server: Server) -> list[tuple[str, str]]:
    """Return what the demo measured, for people."""
    compared, streamed = measured.compared, measured.streamed
    ratios = ", ".join(f"{speed.ratio:.1f} at batch {speed.rows}" for speed in compared.speeds)
    return [
        *_accuracies(compared),
        (
            "size FP32 → INT8",
            f"{human_size(compared.reference_bytes)} → {human_size(compared.candidate_bytes)}",
        ),
        ("INT8 times faster", ratios),
        ("predictions a second", f"{streamed.rate:.0f}"),
        ("mean batch", f"{measured.work.mean_batch:.1f}"),
        ("p50 / p99, one at a time", _percentiles(measured.alone_seconds)),
        (f"p50 / p99, {MAX_IN_FLIGHT} in flight", _percentiles(streamed.latencies_seconds)),
        ("Consul entry", f"{SERVICE} at {server.address}" if agent else "none"),
    ]


def next_commands(stage: Stage, agent: Agent | None, server: Server, target: str) -> Sequence[Sequence[str]]:
    """Return three commands that work while the demo serves."""
    if agent is None:
        third: tuple[str, ...] = ("inspect", str(stage.repository / MODEL))
    else:
        third = ("services", SERVICE, *(("--consul", agent.address) if agent.address else ()))
    return (
        ("call", target, MODEL, "--input", f"@{stage.folder / 'image.npy'}"),
        ("stream", server.address, MODEL, "--input", f"@{stage.folder / 'rows.npy'}"),
        third,
    )


def wait(server: Server) -> None:
    """Wait for Ctrl-C or SIGTERM; CommandError if the server ends before."""
    try:
        server.child.wait()
    except KeyboardInterrupt:
        return
    raise server.child.failed("ended by itself")


def stop(telling: Telling, agent: Agent | None, server: Server) -> None:
    """Stop the server and see that it leaves nothing behind."""
    telling.step("Stop: SIGTERM")
    code = server.child.stop()
    telling.check(code == 0, f"the server's exit code is {code}")
    if agent:
        left = [
            found.id for found in instances(SERVICE, agent=agent.address) if found.address == server.address
        ]
        telling.check(not left, f"still in Consul: {', '.join(left)}" if left else "it has left Consul")


def _accuracies(compared: Comparison) -> list[tuple[str, str]]:
    quality = compared.quality
    if quality is None:
        return []
    return [("accuracy FP32", f"{quality.reference:.4f}"), ("accuracy INT8", f"{quality.candidate:.4f}")]


def _percentiles(latencies_seconds: NDArray[np.float64]) -> str:
    p50, p99 = np.percentile(latencies_seconds, (50, 99)) * 1e3
    return f"{p50:.2f} ms / {p99:.2f} ms"
