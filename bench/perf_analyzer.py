"""Closed loops by perf_analyzer, Triton's measuring program, a client in C++ on gRPC's own library.

It measures three windows, whose figures it sums up; the server's CPU time is that of the last two, since
all that comes before the end of the first is a warm-up as well. It ends with an error when any call fails.
"""

from __future__ import annotations

import csv
import functools
import re
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from bench.load import ROOT, Load, Loader, LoadError, Target, children_cpu_seconds

_WINDOWS: Final = 3
_ANY_SPREAD: Final = 1_000_000
"""In percent: it is not to judge, nor to go on until it likes what it sees."""
_MEASURED: Final = re.compile(r"Pass \[\d+\] throughput: ([0-9.e+]+) infer/sec")
_GRACE_SECONDS: Final = 60


@functools.cache
def path() -> str | None:
    """Return the path of perf_analyzer, if it is there and runs."""
    asked = subprocess.run(
        [ROOT / "tools" / "install-client.sh", "--present", "perf_analyzer", ROOT / ".tools" / "clients"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return asked.stdout.strip() if asked.returncode == 0 else None


def closed_loop(target: Target, in_flight: int, seconds: float) -> Load:
    """Keep calls in flight for a time, or messages in one stream."""
    with tempfile.TemporaryDirectory(prefix="perf-analyzer-") as name:
        folder = Path(name)
        began, own_before = time.perf_counter(), children_cpu_seconds()
        server_cpu_us = _watch(_command(target, in_flight, seconds), folder, target)
        cpu_share = (children_cpu_seconds() - own_before) / (time.perf_counter() - began)
        with (folder / "report.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
    return Load(
        requests_per_second=float(row["Inferences/Second"]) / target.traffic.rows,
        failed=0,
        p50_ms=float(row["p50 latency"]) / 1000,
        p99_ms=float(row["p99 latency"]) / 1000,
        server_cpu_us=server_cpu_us,
        cpu_share=cpu_share,
    )


PERF_ANALYZER: Final = Loader(
    "perf_analyzer", "`make clients` fetches it", path, closed_loop, can_load=lambda traffic: traffic.is_grpc
)


def _command(target: Target, in_flight: int, seconds: float) -> list[str]:
    flags: dict[str, object] = {
        "-u": f"127.0.0.1:{target.port}", "-i": "grpc", "-m": target.model, "-b": target.traffic.rows,
        "--concurrency-range": in_flight, "--measurement-interval": round(1000 * seconds / _WINDOWS),
        "--stability-percentage": _ANY_SPREAD, "--max-trials": _WINDOWS, "-f": "report.csv",
    }  # fmt: skip
    words = [str(path()), "-v", "--async"]
    if target.traffic.is_stream:
        words += ["--streaming", "--max-threads", "1"]  # each thread has a stream of its own
    return words + [str(word) for flag in flags.items() for word in flag]


def _watch(command: list[str], folder: Path, target: Target) -> float:
    """Run it to its end; return microseconds of the server's CPU for a request."""
    said: list[str] = []
    windows: list[tuple[float, float, float]] = []
    with subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        timer = threading.Timer(_GRACE_SECONDS, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                said.append(line)
                if found := _MEASURED.search(line):
                    windows.append((time.perf_counter(), target.cpu_seconds(), float(found[1])))
        finally:
            timer.cancel()
    if process.returncode or len(windows) < _WINDOWS:
        raise LoadError(f"perf_analyzer failed: {''.join(said)[-500:]}")
    (began, cpu_before, _), *_, (ended, cpu_after, _) = windows
    requests_per_second = statistics.fmean(rate for _, _, rate in windows[1:]) / target.traffic.rows
    return 1e6 * (cpu_after - cpu_before) / (ended - began) / requests_per_second
