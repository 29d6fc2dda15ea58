"""Triton's measuring program, unchanged: it ends well, and what it counted is what the server counted."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosted_server import connected

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

pytestmark = pytest.mark.slow  # two seconds each, and it is fetched by `make clients`

PATIENCE_SECONDS = 60.0
SHORT_WINDOWS = ("--measurement-interval=400", "--max-trials=20", "--stability-percentage=999")
EDGES = 3
"""Windows that are summed up: three, or more where a busy machine answered nothing in one. At the edges of
each, requests under way are counted on one side alone."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(perf_analyzer: str, address: str, tmp_path: Path) -> Run:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [perf_analyzer, "-i", "grpc", "-u", address, *SHORT_WINDOWS, *flags]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, cwd=tmp_path
        )

    return run


@pytest.fixture
def stub(address: str) -> Iterator[InferenceServiceStub]:
    with connected(address) as stub:
        yield stub


@dataclass(frozen=True, slots=True)
class Counts:
    """What the server's statistics tell of a model; over all versions, of which there is one."""

    succeeded: int
    failed: int
    rows: int


def counts(stub: InferenceServiceStub, model: str) -> Counts:
    (one,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model)).model_stats
    stats = one.inference_stats
    return Counts(stats.success.count, stats.fail.count, one.inference_count)


def figure(report: str, name: str) -> float:
    """Return the figure that the report has under this name; 0 where it has none."""
    found = re.search(rf"^ *{re.escape(name)}: ([0-9.]+)", report, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(
    ("model", "in_flight", "flags"),
    [
        ("simple", 4, "--concurrency-range=4"),
        ("simple", 8, "--async --concurrency-range=8"),
        ("simple", 4, "--concurrency-range=4 -b 4"),
        ("simple", 4, "--concurrency-range=4 --grpc-compression-algorithm=gzip"),
        ("identity_BYTES", 2, "--concurrency-range=2 --string-length=100"),
        ("simple", 4, "--request-rate-range=200"),
        ("simple", 4, "--request-rate-range=200 --request-distribution=poisson"),
        ("simple", 4, "--streaming --concurrency-range=4"),
        ("simple", 4, "--streaming --request-rate-range=200"),
        ("simple", 4, "--shared-memory=system --concurrency-range=4"),
        ("simple", 4, "--shared-memory=system --streaming --concurrency-range=4 -b 4"),
        ("simple", 1, "--measurement-mode=count_windows --measurement-request-count=100 --percentile=95"),
    ],
)  # fmt: skip
def test_requests(run: Run, stub: InferenceServiceStub, model: str, in_flight: int, flags: str) -> None:
    report = measured(run, stub, model, in_flight, flags)
    assert figure(report, "Execution count") > 0


@pytest.mark.parametrize(
    "flags",
    [
        "--concurrency-range=4",
        "--request-rate-range=200 --num-of-sequences=6 --sequence-length=10",
        "--streaming --concurrency-range=4",
        "--shared-memory=system --output-shared-memory-size=64 --concurrency-range=2",
    ],
)
def test_sequences(run: Run, stub: InferenceServiceStub, flags: str) -> None:
    report = measured(run, stub, "running_sum", 6, f"{flags} --input-data=zero")
    assert figure(report, "Sequence count") > 0


def test_a_decoupled_model(run: Run, stub: InferenceServiceStub, tmp_path: Path) -> None:
    data = {"data": [{"x": {"content": [1, 2, 3], "shape": [3]}}]}
    (tmp_path / "three.json").write_text(json.dumps(data))
    report = measured(run, stub, "repeat", 2, "--streaming --input-data=three.json --concurrency-range=2")
    answers = figure(report, "Response Throughput") / figure(report, "Throughput")
    assert answers == pytest.approx(3, rel=0.05)


def test_a_row_for_each_load(run: Run, tmp_path: Path) -> None:
    done = run("-m", "simple", "--concurrency-range=1:3:1", "-f", "loads.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "loads.csv").open(newline="") as file:
        loads = {row["Concurrency"]: row for row in csv.DictReader(file)}
    assert sorted(loads) == ["1", "2", "3"]
    assert all(float(row["Inferences/Second"]) > 0 for row in loads.values())
    assert all(float(row["Server Compute Infer"]) > 0 for row in loads.values())


def test_a_model_that_is_not_there_is_told(run: Run) -> None:
    done = run("-m", "simpel")
    assert done.returncode != 0
    assert "did you mean 'simple'?" in done.stdout + done.stderr


def measured(run: Run, stub: InferenceServiceStub, model: str, in_flight: int, flags: str) -> str:
    """Measure a model, expect that all is well and that both sides' counts agree; return the report."""
    before = counts(stub, model)
    done = run("-m", model, *flags.split())
    after = counts(stub, model)
    report = done.stdout
    assert done.returncode == 0, report + done.stderr
    assert "error" not in report.lower()
    assert figure(report, "Throughput") > 0
    assert after.failed == before.failed
    batch = 4 if "-b 4" in flags else 1
    assert after.rows - before.rows == batch * (after.succeeded - before.succeeded)
    theirs, ours = figure(report, "Request count"), figure(report, "Successful request count")
    assert 0 < theirs <= after.succeeded - before.succeeded
    assert theirs == pytest.approx(ours, rel=0.05, abs=EDGES * in_flight)
    assert figure(report, "Inference count") == batch * ours
    print(f"{flags}: {figure(report, 'Throughput'):,.0f} infer/s, {theirs:,.0f} requests")
    return report
