"""Puts load on a server from a process of its own, and says what that process cost.

Closed loops are run by h2load where it is on PATH (Debian: nghttp2-client), else by `bench.generator`;
open loops always by the latter, because h2load sends in bursts, every 10 ms, and counts latency from
when it did send.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

_ROOT: Final = Path(__file__).parents[1]
_GRPC_HEADERS: Final = ("content-type: application/grpc", "te: trailers")
_OPEN_LOOP_CONNECTIONS: Final = 4
_GRACE_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send which prepared body, and how many bytes a good answer has (framed, for gRPC)."""

    port: int
    path: str
    body: Path
    reply_bytes: int
    is_grpc: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it. Latencies are of answers; `failed` calls ended in another way, or not at all."""

    replies: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_share: float
    """Of one core, used by the generator: near 1 it is the generator that was measured."""


class LoadError(RuntimeError):
    """The load generator could not do its work."""


def h2load() -> str | None:
    """Return the path of h2load, if it is there."""
    return shutil.which("h2load")


def closed_loop(target: Target, in_flight: int, seconds: float) -> Load:
    """Keep calls in flight for a time."""
    if h2load():
        return _run_h2load(target, in_flight, seconds)
    return _run_generator(
        target, ["--connections", _connections(in_flight), "--in-flight", in_flight, "--seconds", seconds]
    )


def fixed_number(target: Target, in_flight: int, requests: int) -> Load:
    """Send exactly so many requests."""
    return _run_generator(
        target, ["--connections", _connections(in_flight), "--in-flight", in_flight, "--requests", requests]
    )


def open_loop(target: Target, rate: float, seconds: float) -> Load:
    """Send `rate` requests a second, whatever the answers do."""
    return _run_generator(
        target, ["--connections", _OPEN_LOOP_CONNECTIONS, "--rate", rate, "--seconds", seconds]
    )


def _connections(in_flight: int) -> int:
    """Return how many connections share the calls: at most 8, with at least 4 calls each."""
    return next(n for n in (8, 4, 2, 1) if n == 1 or (in_flight % n == 0 and in_flight // n >= 4))


def _run_generator(target: Target, how: list[object]) -> Load:
    if not target.is_grpc:
        raise LoadError("a server that speaks HTTP/1.1 needs h2load on PATH (Debian: nghttp2-client)")
    command = [sys.executable, "-m", "bench.generator", "--port", target.port, "--path", target.path]
    command += ["--body", target.body, "--reply-bytes", target.reply_bytes, *how]
    output, cpu_share = _run(command)
    result = json.loads(output)
    return Load(cpu_share=cpu_share, **result)


def _run_h2load(target: Target, in_flight: int, seconds: float) -> Load:
    connections = _connections(in_flight) if target.is_grpc else in_flight
    with tempfile.NamedTemporaryFile(prefix="h2load-", suffix=".log") as log:
        command: list[object] = [h2load(), "-t1", f"-c{connections}", f"-m{in_flight // connections}"]
        command += [
            f"--duration={round(seconds * 1000)}ms",
            f"--data={target.body}",
            f"--log-file={log.name}",
        ]
        for header in _GRPC_HEADERS if target.is_grpc else ("content-type: application/octet-stream",):
            command += ["-H", header]
        if not target.is_grpc:
            command.append("--h1")
        output, cpu_share = _run([*command, f"http://127.0.0.1:{target.port}{target.path}"])
        latencies_ms, failed = _read_log(Path(log.name))
    return _counted(latencies_ms, failed, _data_bytes(output), target, seconds, cpu_share)


def _counted(
    latencies_ms: list[float], failed: int, data_bytes: int, target: Target, seconds: float, cpu_share: float
) -> Load:
    """Make the result, finding errors of gRPC, which are HTTP's 200 without a body."""
    answered = len(latencies_ms)
    good = min(answered, round(data_bytes / target.reply_bytes))
    p50, p99 = np.percentile(latencies_ms or [0.0], (50, 99)).tolist()
    return Load(good, failed + answered - good, seconds, p50, p99, cpu_share)


def _read_log(log: Path) -> tuple[list[float], int]:
    """Return the latencies of answers with status 200, and the number of other ones."""
    latencies_ms = []
    failed = 0
    for line in log.read_text().splitlines():
        _, status, microseconds = line.split("\t")[:3]
        if status == "200":
            latencies_ms.append(int(microseconds) / 1000)
        else:
            failed += 1
    return latencies_ms, failed


def _data_bytes(output: str) -> int:
    found = re.search(r"\((\d+)\) data$", output, re.MULTILINE)
    if found is None:
        raise LoadError(f"h2load did not say how much data came: {output[-300:]!r}")
    return int(found[1])


def _run(command: list[object]) -> tuple[str, float]:
    """Run a generator to its end; return its output and the share of a core that it used."""
    began = time.perf_counter()
    before = _children_cpu_seconds()
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=_ROOT, capture_output=True, text=True, timeout=_GRACE_SECONDS, check=False
    )
    if done.returncode:
        raise LoadError(f"{words[0]} failed: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout, (_children_cpu_seconds() - before) / (time.perf_counter() - began)


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
