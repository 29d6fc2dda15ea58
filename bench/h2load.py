"""Closed loops by h2load, a program in C that speaks HTTP/2 and HTTP/1.1 (Debian: nghttp2-client)."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from bench.load import Load, Loader, LoadError, Target, children_cpu_seconds, connections, run

_GRPC_HEADERS: Final = ("content-type: application/grpc", "te: trailers")
_HTTP_HEADERS: Final = ("content-type: application/octet-stream",)


def path() -> str | None:
    """Return the path of h2load, if it is there."""
    return shutil.which("h2load")


def closed_loop(target: Target, in_flight: int, seconds: float) -> Load:
    """Keep calls in flight for a time."""
    shared = connections(in_flight) if target.traffic.is_grpc else in_flight
    with tempfile.NamedTemporaryFile(prefix="h2load-", suffix=".log") as log:
        command: list[object] = [path(), "-t1", f"-c{shared}", f"-m{in_flight // shared}"]
        command += [
            f"--duration={round(seconds * 1000)}ms",
            f"--data={target.body}",
            f"--log-file={log.name}",
        ]
        for header in _GRPC_HEADERS if target.traffic.is_grpc else _HTTP_HEADERS:
            command += ["-H", header]
        if not target.traffic.is_grpc:
            command.append("--h1")
        command.append(f"http://127.0.0.1:{target.port}{target.path}")
        began, cpu_before, own_before = time.perf_counter(), target.cpu_seconds(), children_cpu_seconds()
        output = run(command)
        cpu_seconds = target.cpu_seconds() - cpu_before
        cpu_share = (children_cpu_seconds() - own_before) / (time.perf_counter() - began)
        latencies_ms, failed = _read(Path(log.name))
    good = min(len(latencies_ms), round(_data_bytes(output) / target.reply_bytes))
    p50, p99 = np.percentile(latencies_ms or [0.0], (50, 99)).tolist()
    return Load(
        requests_per_second=good / seconds,
        failed=failed + len(latencies_ms) - good,  # gRPC's errors are HTTP's 200 without a message
        p50_ms=p50,
        p99_ms=p99,
        server_cpu_us=1e6 * cpu_seconds / max(1, failed + len(latencies_ms)),
        cpu_share=cpu_share,
    )


H2LOAD: Final = Loader(
    "h2load",
    "Debian has it in nghttp2-client",
    path,
    closed_loop,
    can_load=lambda traffic: not traffic.is_stream,
)


def _read(log: Path) -> tuple[list[float], int]:
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
