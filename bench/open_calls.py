"""What calls that are open cost in memory: a model holds them until all have come, and is then let go.

The model is a program that waits for a lock on a file, which is ours while calls come in. So the first batch
stays in the model, and all other calls in its queue.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import select
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.http2 import Calls
from bench.models import Network
from bench.servers import Server, free_port, headrace, start

_CONNECTIONS: Final = 10
_PATIENCE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1
_MODEL: Final = Network("held", (100,), (100, 10))
_PROGRAM: Final = """
import fcntl

import numpy as np
from headrace_engines.python_model import Context, Tensor


class Model:
    inputs = [Tensor("x", "FP32", [{features}])]
    outputs = [Tensor("y", "FP32", [{classes}])]
    max_batch_size = 64

    def load(self, context: Context) -> None:
        pass

    def execute(self, batch):
        with open({gate!r}) as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
        return {{"y": np.zeros((len(batch["x"]), {classes}), np.float32)}}
"""


class OpenCallsError(RuntimeError):
    """Calls did not come in, or were not answered."""


@dataclass(frozen=True, slots=True)
class Held:
    """Resident memory in bytes: before calls are opened, with all of them open, and after their answers."""

    before: int
    at: int
    after: int


def measure(name: str, calls: int, rounds: int, work: Path, *flags: object) -> Iterator[Held]:
    """Open so many calls at once, let them be answered, and that again; on this server with further flags."""
    gate = work / "gate"
    gate.touch()
    version = work / "models" / _MODEL.name / "1"
    version.mkdir(parents=True)
    program = _PROGRAM.format(features=_MODEL.shape[0], classes=_MODEL.classes, gate=str(gate))
    (version / "model.py").write_text(program)
    metrics_port = free_port()
    limits = ("--max-queue-size", calls, "--max-concurrent-calls", calls, "--allow-python-models")
    kind = headrace(name, *limits, "--metrics-port", metrics_port, *flags)
    with start(kind, _MODEL, work) as server:
        for _ in range(rounds):
            yield _round(server, calls, gate, metrics_port)


def _round(server: Server, calls: int, gate: Path, metrics_port: int) -> Held:
    before = server.rss_bytes()
    target = server.target()
    with contextlib.ExitStack() as stack:
        connections = [
            Calls(target.port, target.path, target.body.read_bytes(), target.reply_bytes)
            for _ in range(_CONNECTIONS)
        ]
        for connection in connections:
            stack.callback(connection.close)
        with gate.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for number, connection in enumerate(connections):
                connection.send(0, len(range(number, calls, _CONNECTIONS)))
            _receive_until(connections, lambda: _open_calls(metrics_port) == calls)
            at = server.rss_bytes()
        good = _receive_until(connections, lambda: not any(c.open_calls for c in connections))
    if good != calls:
        raise OpenCallsError(f"{good} of {calls} calls were answered well")
    return Held(before, at, server.rss_bytes())


def _receive_until(connections: list[Calls], is_over: Callable[[], bool]) -> int:
    """Read what comes until something is so; return the number of good answers."""
    end = time.monotonic() + _PATIENCE_SECONDS
    good = 0
    while not is_over():
        if time.monotonic() > end:
            raise OpenCallsError(f"{sum(c.open_calls for c in connections)} calls are open after a minute")
        for connection in select.select(connections, (), (), _LOOK_SECONDS)[0]:
            good += sum(answer.good for answer in connection.receive())
    return good


def _open_calls(metrics_port: int) -> int:
    """Return how many calls the server says that it is answering."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{metrics_port}/metrics", timeout=_PATIENCE_SECONDS) as reply:
        found = re.search(r"^headrace_open_calls (\S+)$", reply.read().decode(), re.MULTILINE)
    return int(float(found[1])) if found else -1
