"""Starts the servers under test as child processes, and reads what they use."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from bench import first_answer, processes
from bench.http2 import framed
from bench.load import ROOT, Target, Traffic
from bench.models import Network, request, rows
from headrace_proto.names import TRITON_SERVICE
from headrace_proto.tensors import to_raw
from headrace_proto.v1 import inference_pb2 as pb

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.05
_STREAM_PATH: Final = f"/{TRITON_SERVICE}/ModelStreamInfer"


class ServerError(RuntimeError):
    """A server under test did not start."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a server is started, and what it speaks.

    `command` is given the model repository, the model and a free port.
    """

    name: str
    command: Callable[[Path, Network, int], list[object]]
    path: str = f"/{TRITON_SERVICE}/ModelInfer"
    is_grpc: bool = True
    has_streams: bool = False
    """Whether it answers ModelStreamInfer."""
    has_statistics: bool = False
    """Whether it answers ModelStatistics."""


def headrace(name: str, *flags: object) -> Kind:
    """Return this server with further flags."""

    def command(repository: Path, model: Network, port: int) -> list[object]:
        program = Path(sys.executable).with_name("headrace")
        ports = ["--grpc-port", port, "--metrics-port", 0]
        return [program, "serve", "--model-repository", repository, *ports, "--log-level", "warning", *flags]

    return Kind(name, command, has_streams=True, has_statistics=True)


def _echo(repository: Path, model: Network, port: int) -> list[object]:
    return [sys.executable, "-m", "bench.echo", "--model", model.name, "--port", port]


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        headrace("headrace"),
        headrace("headrace-aio", "--grpc-transport", "aio"),
        Kind("echo", _echo, has_streams=True),
    )
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `start` makes one."""

    kind: Kind
    model: Network
    port: int
    process: subprocess.Popen[bytes]
    work: Path

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

    def cpu_seconds(self) -> float:
        """Return the CPU time of its processes so far."""
        return processes.cpu_seconds(self.process.pid)

    def rss_bytes(self) -> int:
        """Return the resident memory of its processes."""
        return processes.rss_bytes(self.process.pid)

    def target(self, count: int = 1, *, is_stream: bool = False) -> Target:
        """Write the body of requests of so many rows, ask once, and say where to send it.

        Raises grpc.RpcError or OSError if that is not answered.
        """
        body = self.work / f"{self.kind.name}-{count}.body"
        body.write_bytes(_body(self.kind, self.model, count))
        path = _STREAM_PATH if is_stream else self.kind.path
        ask = (
            first_answer.stream
            if is_stream
            else first_answer.call
            if self.kind.is_grpc
            else first_answer.post
        )
        return Target(
            self.port, path, self.model.name, body,
            ask(self.port, path, body.read_bytes()),
            traffic(self.kind, self.model, count, is_stream=is_stream),
            self.cpu_seconds,
        )  # fmt: skip

    def batches(self) -> tuple[int, int] | None:
        """Return how many rows it has inferred and in how many executions, if it counts them."""
        if not self.kind.has_statistics:
            return None
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.unary_unary(
                f"/{TRITON_SERVICE}/ModelStatistics",
                request_serializer=pb.ModelStatisticsRequest.SerializeToString,
                response_deserializer=pb.ModelStatisticsResponse.FromString,
            )
            models = call(pb.ModelStatisticsRequest(), timeout=10).model_stats
        return sum(m.inference_count for m in models), sum(m.execution_count for m in models)


@functools.cache
def traffic(kind: Kind, model: Network, count: int, *, is_stream: bool) -> Traffic:
    """Return what a server is sent in requests of so many rows."""
    return Traffic(count, len(_body(kind, model, count)), kind.is_grpc, is_stream)


@contextlib.contextmanager
def start(kind: Kind, model: Network, work: Path) -> Iterator[Server]:
    """Start a server on `work`/models, wait for its first good answer, and stop it in the end."""
    port = free_port()
    log = work / f"{kind.name}.log"
    command = [str(word) for word in kind.command(work / "models", model, port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        server = Server(kind, model, port, process, work)
        _wait_for_answer(server, log)
        yield server
    finally:
        _stop(process)


def _body(kind: Kind, model: Network, count: int) -> bytes:
    return framed(request(model, count=count)) if kind.is_grpc else to_raw(rows(model, count))


def _wait_for_answer(server: Server, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    failure = "it did not answer"
    while time.monotonic() < end and server.is_alive:
        try:
            server.target()
        except (grpc.RpcError, OSError) as error:  # urllib's errors are OSErrors
            failure = str(error)
            time.sleep(_POLL_SECONDS)
        else:
            return
    if not server.is_alive:
        failure = f"it exited with {server.process.returncode}"
    tail = log.read_text(errors="replace")[-1000:]
    raise ServerError(f"{server.kind.name} did not start: {failure}\n{tail}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop; end what is left of its group by force."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
