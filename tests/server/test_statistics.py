from __future__ import annotations

import pytest

from headrace_server.core.latency import BatchLatency
from headrace_server.core.statistics import Execution, Statistics


def test_an_execution_counts_for_each_request_that_shared_it() -> None:
    statistics = Statistics()
    one = Execution(rows=5, requests=3, request_ns=900, queue_ns=300, input_ns=10, infer_ns=100, output_ns=20)
    other = Execution(rows=5, requests=1, request_ns=200, queue_ns=0, input_ns=1, infer_ns=2, output_ns=3)
    alone = Execution(rows=1, requests=1, request_ns=50, queue_ns=5, input_ns=1, infer_ns=1, output_ns=1)
    for number, execution in enumerate((one, other, alone)):
        statistics.executed(execution, 1000 + number)
    assert statistics.last_inference_ms == 1002
    assert (statistics.inference_count, statistics.execution_count) == (11, 3)
    assert (statistics.success.count, statistics.success.ns) == (5, 1150)
    assert (statistics.queue.count, statistics.queue.ns) == (5, 305)
    assert (statistics.compute_input.count, statistics.compute_input.ns) == (5, 32)
    assert (statistics.compute_infer.count, statistics.compute_infer.ns) == (5, 303)
    assert (statistics.compute_output.count, statistics.compute_output.ns) == (5, 64)
    five = statistics.by_batch_size[5]
    assert (five.compute_infer.count, five.compute_infer.ns) == (2, 102)
    assert sorted(statistics.by_batch_size) == [1, 5]


@pytest.mark.parametrize(
    ("batches", "rows", "seconds"),
    [
        ([], 8, 0.001),
        ([0.1], 8, 0.1),
        ([0.1], 9, 0.2),
        ([0.1], 0, 0.001),
        ([0.1], 80, 1.0),
        ([0.1, 0.2], 8, 0.11),
        ([0.0001], 1, 0.001),
    ],
)
def test_a_queue_drains_batch_by_batch(batches: list[float], rows: int, seconds: float) -> None:
    latency = BatchLatency(max_rows=8)
    for batch_seconds in batches:
        latency.record(batch_seconds)
    assert latency.drain_seconds(rows) == pytest.approx(seconds)


def test_the_newest_batches_count_most() -> None:
    latency = BatchLatency(max_rows=1)
    for _ in range(100):
        latency.record(1.0)
    for _ in range(50):
        latency.record(0.1)
    assert latency.drain_seconds(1) == pytest.approx(0.1, rel=0.1)
