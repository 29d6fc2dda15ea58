from __future__ import annotations

import pytest

from headrace_server.core.latency import BatchLatency
from headrace_server.core.statistics import Duration, Execution, Statistics


def test_an_execution_counts_for_each_request_that_shared_it() -> None:
    statistics = Statistics()
    one = Execution(rows=5, begun_ns=1100, started_ns=1110, computed_ns=1210, ended_ns=1230)
    other = Execution(rows=5, begun_ns=2000, started_ns=2001, computed_ns=2003, ended_ns=2006)
    alone = Execution(rows=1, begun_ns=3000, started_ns=3001, computed_ns=3002, ended_ns=3003)
    queued_ns = ([900, 1000, 1100], [2000], [2995])
    for number, (execution, queued) in enumerate(zip((one, other, alone), queued_ns, strict=True)):
        statistics.executed(execution, queued, 1000 + number)
    assert statistics.last_inference_ms == 1002
    assert (statistics.inference_count, statistics.execution_count) == (11, 3)
    assert statistics.success == Duration(5, 330 + 230 + 130 + 6 + 8)
    assert statistics.queue == Duration(5, 200 + 100 + 0 + 0 + 5)
    assert statistics.compute_input == Duration(5, 32)
    assert statistics.compute_infer == Duration(5, 303)
    assert statistics.compute_output == Duration(5, 64)
    assert statistics.by_batch_size[5].compute_infer == Duration(2, 102)
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
