"""What a call costs our client beside the generated stubs: `python -m bench.client`.

The stubs send a message that was made before, and leave the answer's message alone; the clients take
NumPy arrays and return NumPy arrays. All of them are run in this process, by turns, against the same
server, whose own CPU time stands beside theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.client_calls import WAYS, Task, Way
from bench.processes import cpu_seconds

_ROOT: Final = Path(__file__).parents[1]
_STOP_SECONDS: Final = 15.0
_PIPE_COLUMNS: Final = 120
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request: the shape of its FP32 tensor, and how many make a run."""

    name: str
    shape: tuple[int, ...]
    calls: int


@dataclass(frozen=True, slots=True)
class Server:
    """The running server that is called."""

    address: str
    pid: int


LOADS: Final = (Load("small", (1, 100), 3000), Load("large", (1, 3, 224, 224), 400))


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run; CPU microseconds are for one call, of this process and of the server's."""

    load: Load
    in_flight: int
    way: Way
    cpu_us: float
    server_cpu_us: float
    rate: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for, print the tables, and return the exit code."""
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as work, Progress(console=console) as bar:
            repository = Path(work)
            write_repository(repository, LOADS)
            with _server(repository, shlex.split(given.server_flags)) as server:
                runs = list(measure(server, given, bar))
    except KeyboardInterrupt:
        return _INTERRUPTED
    for load in LOADS:
        console.print(table(load, runs))
    console.print("medians (least-most); CPU µs: of the calling process, for one call; x stub: of those")
    return 0


def measure(server: Server, given: argparse.Namespace, progress: Progress) -> Iterator[Run]:
    """Run every way of calling by turns, `repeats` times over."""
    turns = [
        (load, in_flight, way)
        for load in LOADS
        for in_flight in given.in_flight
        for _ in range(given.repeats)
        for way in WAYS
    ]
    for load, in_flight, way in progress.track(turns, description="calls"):
        yield _run(server, load, in_flight, way, max(int(load.calls * given.scale), in_flight))


def _run(server: Server, load: Load, in_flight: int, way: Way, calls: int) -> Run:
    """Measure so many calls, after some that do not count."""
    with way.open(Task(server.address, load.name, tensor(load), in_flight)) as session:
        session.calls(max(calls // 10, in_flight))
        server_began, began, cpu_began = cpu_seconds(server.pid), time.perf_counter(), time.process_time()
        session.calls(calls)
        cpu, wall = time.process_time() - cpu_began, time.perf_counter() - began
        server_cpu = cpu_seconds(server.pid) - server_began
    return Run(load, in_flight, way, cpu / calls * 1e6, server_cpu / calls * 1e6, calls / wall)


def tensor(load: Load) -> NDArray[np.float32]:
    """Return the array that every request carries."""
    return np.random.default_rng(1).standard_normal(load.shape, np.float32)


def table(load: Load, runs: Iterable[Run]) -> Table:
    """Return the table of one kind of request: medians, each client beside its stub."""
    chosen = [run for run in runs if run.load is load]
    shape = "x".join(map(str, load.shape))
    made = Table(title=f"{load.name}: {shape} FP32", box=box.SIMPLE_HEAD)
    for head in ("in flight", "caller", "CPU µs", "x stub", "server CPU µs", "calls/s"):
        made.add_column(head, justify="left" if head == "caller" else "right", no_wrap=True)
    for in_flight in dict.fromkeys(run.in_flight for run in chosen):
        for way in WAYS:
            mine = [run for run in chosen if (run.in_flight, run.way) == (in_flight, way)]
            stubs = [run.cpu_us for run in chosen if (run.in_flight, run.way) == (in_flight, way.stub)]
            cpu = [run.cpu_us for run in mine]
            made.add_row(
                str(in_flight),
                way.name,
                _spread(cpu),
                f"{statistics.median(cpu) / statistics.median(stubs):.2f}" if stubs else "",
                f"{statistics.median(run.server_cpu_us for run in mine):.0f}",
                f"{statistics.median(run.rate for run in mine):,.0f}",
                end_section=way is WAYS[-1],
            )
    return made


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def write_repository(root: Path, loads: Iterable[Load]) -> None:
    """Write a model for each kind of request, which answers with the mean of each row."""
    for load in loads:
        version = root / load.name / "1"
        version.mkdir(parents=True)
        axes = list(range(1, len(load.shape)))
        mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=1)
        graph = helper.make_graph(
            [mean, helper.make_node("Flatten", ["mean"], ["y"])],
            load.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *load.shape[1:]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, version / "model.onnx")


@contextlib.contextmanager
def _server(repository: Path, flags: Sequence[str]) -> Iterator[Server]:
    """Start a server with the models, and stop it in the end."""
    command = [
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        "--model-repository",
        str(repository),
    ]
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--log-level", "warning"]
    process = subprocess.Popen(
        [*command, *ports, *flags], cwd=_ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        if process.stdout is None or not (line := process.stdout.readline()):
            raise RuntimeError(f"the server did not start: it exited with {process.wait(_STOP_SECONDS)}")
        yield Server(json.loads(line)["grpc"], process.pid)
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.client", description=__doc__)
    parser.add_argument("--server-flags", default="", help="such as '--grpc-transport aio'")
    parser.add_argument("--in-flight", type=_integers, default=[1, 64], help="default: 1,64")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument("--scale", type=float, default=1.0, help="calls of a run: so many times as usual")
    return parser


def _integers(text: str) -> list[int]:
    return [int(item) for item in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
