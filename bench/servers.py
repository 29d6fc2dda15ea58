"""Starts the servers under test as child processes, and reads what they use."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from bench import processes
from bench.load import Target
from bench.models import Mlp, request, row
from headrace_proto.names import TRITON_SERVICE
from headrace_proto.tensors import to_raw
from headrace_proto.v1 import inference_pb2 as pb

_ROOT: Final = Path(__file__).parents[1]
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.05


class ServerError(RuntimeError):
    """A server under test did not start."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a server is started, and what it speaks.

    `command` is given the model repository, the model and a free port.
    """

    name: str
    command: Callable[[Path, Mlp, int], list[object]]
    path: str = f"/{TRITON_SERVICE}/ModelInfer"
    is_grpc: bool = True
    has_statistics: bool = False
    """Whether it answers ModelStatistics."""


def _headrace(repository: Path, model: Mlp, port: int) -> list[object]:
    command = Path(sys.executable).with_name("headrace")
    ports = ["--grpc-port", port, "--metrics-port", 0]
    return [command, "serve", "--model-repository", repository, *ports, "--log-level", "warning"]


def _headrace_aio(repository: Path, model: Mlp, port: int) -> list[object]:
    return [*_headrace(repository, model, port), "--grpc-transport", "aio"]


def _echo(repository: Path, model: Mlp, port: int) -> list[object]:
    return [sys.executable, "-m", "bench.echo", "--port", port]


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("headrace", _headrace, has_statistics=True),
        Kind("headrace-aio", _headrace_aio, has_statistics=True),
        Kind("echo", _echo),
    )
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `start` makes one."""

    kind: Kind
    target: Target
    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time of its processes so far."""
        return processes.cpu_seconds(self.pid)

    def rss_bytes(self) -> int:
        """Return the resident memory of its processes."""
        return processes.rss_bytes(self.pid)

    def batches(self) -> tuple[int, int] | None:
        """Return how many rows it has inferred and in how many executions, if it counts them."""
        if not self.kind.has_statistics:
            return None
        with grpc.insecure_channel(f"127.0.0.1:{self.target.port}") as channel:
            call = channel.unary_unary(
                f"/{TRITON_SERVICE}/ModelStatistics",
                request_serializer=pb.ModelStatisticsRequest.SerializeToString,
                response_deserializer=pb.ModelStatisticsResponse.FromString,
            )
            models = call(pb.ModelStatisticsRequest(), timeout=10).model_stats
        return sum(m.inference_count for m in models), sum(m.execution_count for m in models)


@contextlib.contextmanager
def start(kind: Kind, model: Mlp, work: Path) -> Iterator[Server]:
    """Start a server on `work`/models, wait for its first good answer, and stop it in the end."""
    port = _free_port()
    body = work / f"{kind.name}-{model.name}.body"
    body.write_bytes(_body(kind, model))
    log = work / f"{kind.name}-{model.name}.log"
    command = [str(word) for word in kind.command(work / "models", model, port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=_ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        target = Target(
            port, kind.path, body, _first_reply_bytes(kind, port, body, process, log), kind.is_grpc
        )
        yield Server(kind, target, process.pid)
    finally:
        _stop(process)


def _body(kind: Kind, model: Mlp) -> bytes:
    if not kind.is_grpc:
        return to_raw(row(model))
    message = request(model)
    return b"\0" + len(message).to_bytes(4, "big") + message


def _first_reply_bytes(kind: Kind, port: int, body: Path, process: subprocess.Popen[bytes], log: Path) -> int:
    ask = _ask_grpc if kind.is_grpc else _ask_http
    end = time.monotonic() + _START_SECONDS
    failure = "it did not answer"
    while time.monotonic() < end and process.poll() is None:
        try:
            return ask(port, kind.path, body.read_bytes())
        except (grpc.RpcError, urllib.error.URLError, OSError) as error:
            failure = str(error)
            time.sleep(_POLL_SECONDS)
    if process.poll() is not None:
        failure = f"it exited with {process.returncode}"
    tail = log.read_text(errors="replace")[-1000:]
    raise ServerError(f"{kind.name} did not start: {failure}\n{tail}")


def _ask_grpc(port: int, path: str, body: bytes) -> int:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary(
            path,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=bytes,
        )
        return len(call(pb.ModelInferRequest.FromString(body[5:]), timeout=5)) + 5


def _ask_http(port: int, path: str, body: bytes) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"content-type": "application/octet-stream"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    with opener.open(asked, timeout=5) as reply:
        return len(reply.read())


def _free_port() -> int:
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
