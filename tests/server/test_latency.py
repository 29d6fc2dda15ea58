from __future__ import annotations

import pytest

from headrace_server.core.latency import BatchLatency


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
