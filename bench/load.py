"""What puts load on a server: a program in a process of its own, and what it found and cost.

Closed loops are run by whichever of them is chosen; open loops by `bench.generator` alone, because h2load
sends in bursts, every 10 ms, and counts latency from when it did send.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.http2 import LARGEST_CALL_BYTES

ROOT: Final = Path(__file__).parents[1]
_OPEN_LOOP_CONNECTIONS: Final = 4
_GRACE_SECONDS: Final = 60
_SLOWEST_RATE: Final = 1000
"""Calls a second below which a fixed number of them is given up."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What requests are like."""

    rows: int
    body_bytes: int
    is_grpc: bool
    """Else it is HTTP/1.1."""
    is_stream: bool
    """Whether they are messages in one stream."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send which prepared body, and how many bytes a good answer has (framed, for gRPC)."""

    port: int
    path: str
    model: str
    body: Path
    reply_bytes: int
    traffic: Traffic
    cpu_seconds: Callable[[], float]
    """The CPU time of the server's processes so far."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it. Latencies are of answers; `failed` calls ended in another way, or not at all."""

    requests_per_second: float
    failed: int
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    """CPU time of the server for one request."""
    cpu_share: float
    """Of one core, used by the generator: near 1 it is the generator that was measured."""


class LoadError(RuntimeError):
    """The load generator could not do its work."""


@dataclass(frozen=True, slots=True)
class Loader:
    """A program that keeps calls in flight."""

    name: str
    advice: str
    """How to get it."""
    path: Callable[[], str | None]
    closed_loop: Callable[[Target, int, float], Load]
    """Keeps so many calls in flight on the target for so many seconds."""
    can_load: Callable[[Traffic], bool]


def connections(in_flight: int) -> int:
    """Return how many connections share the calls: at most 8, with at least 4 calls each."""
    return next(n for n in (8, 4, 2, 1) if n == 1 or (in_flight % n == 0 and in_flight // n >= 4))


def closed_loop(target: Target, in_flight: int, seconds: float) -> Load:
    """Keep calls in flight for a time, on several connections, or messages in one stream."""
    return _generate(target, *_shared(target, in_flight), "--seconds", seconds)


def fixed_number(target: Target, in_flight: int, requests: int) -> Load:
    """Send exactly so many requests."""
    patience_seconds = _GRACE_SECONDS + requests / _SLOWEST_RATE
    how = (*_shared(target, in_flight), "--requests", requests)
    return _generate(target, *how, patience_seconds=patience_seconds)


def open_loop(target: Target, rate: float, seconds: float) -> Load:
    """Send `rate` requests a second, whatever the answers do."""
    return _generate(target, "--connections", _OPEN_LOOP_CONNECTIONS, "--rate", rate, "--seconds", seconds)


def can_generate(traffic: Traffic) -> bool:
    """Tell whether `bench.generator` can send this."""
    return traffic.is_grpc and (traffic.is_stream or traffic.body_bytes <= LARGEST_CALL_BYTES)


GENERATOR: Final = Loader(
    "generator", "it is part of this", lambda: sys.executable, closed_loop, can_generate
)
"""`bench.generator`, in Python."""


def run(command: list[object], folder: Path = ROOT, patience_seconds: float = _GRACE_SECONDS) -> str:
    """Run a generator to its end and return its output. Raises LoadError if it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=patience_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{words[0]} did not end in {patience_seconds:.0f} s") from error
    if done.returncode:
        raise LoadError(f"{words[0]} failed: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


def children_cpu_seconds() -> float:
    """Return the CPU time of child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _shared(target: Target, in_flight: int) -> tuple[object, ...]:
    return (
        "--connections",
        1 if target.traffic.is_stream else connections(in_flight),
        "--in-flight",
        in_flight,
    )


def _generate(target: Target, *how: object, patience_seconds: float = _GRACE_SECONDS) -> Load:
    command = [sys.executable, "-m", "bench.generator", "--port", target.port, "--path", target.path]
    command += ["--body", target.body, "--reply-bytes", target.reply_bytes, *how]
    if target.traffic.is_stream:
        command.append("--stream")
    began, cpu_before, own_before = time.perf_counter(), target.cpu_seconds(), children_cpu_seconds()
    result = json.loads(run(command, patience_seconds=patience_seconds))
    cpu_seconds = target.cpu_seconds() - cpu_before
    return Load(
        requests_per_second=result["replies"] / result["seconds"],
        failed=result["failed"],
        p50_ms=result["p50_ms"],
        p99_ms=result["p99_ms"],
        server_cpu_us=1e6 * cpu_seconds / max(1, result["replies"] + result["failed"]),
        cpu_share=(children_cpu_seconds() - own_before) / (time.perf_counter() - began),
    )
