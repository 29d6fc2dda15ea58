from __future__ import annotations

import pytest

from headrace_server.core.latency import BatchLatency, BatchTimes


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


def learnt(*batches: tuple[int, float], times: int = 60) -> BatchTimes:
    """Return what is known after these batches came so often in turns."""
    known = BatchTimes()
    for _ in range(times):
        for rows, seconds in batches:
            known.record(rows, seconds)
    return known


def test_of_a_size_that_never_came_nothing_is_known_and_a_smaller_one_takes_no_longer() -> None:
    assert BatchTimes().least_seconds(8) is None
    assert BatchTimes().most_seconds(8) == 0.0
    known = learnt((8, 0.1))
    assert known.least_seconds(4) is None
    assert known.least_seconds(64) == pytest.approx(0.1, rel=0.01)
    assert known.most_seconds(64) == pytest.approx(0.8, rel=0.01), "a row is no faster among more"
    assert known.most_seconds(2) == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("rows", [17, 20, 25, 32])
def test_batches_of_about_a_size_are_told_apart_by_their_rows(rows: int) -> None:
    known = learnt(*((size, 0.005 + 0.001 * size) for size in (17, 31, 24, 20, 28)))
    least, most = known.least_seconds(rows), known.most_seconds(rows)
    assert least == pytest.approx(0.005 + 0.001 * rows, rel=0.05)
    assert most == pytest.approx(0.005 + 0.001 * rows, rel=0.05)


def test_the_less_two_batches_of_a_size_are_alike_the_wider_is_what_they_may_take() -> None:
    known = learnt((8, 0.1), (8, 0.3))
    least, most = known.least_seconds(8), known.most_seconds(8)
    assert least is not None
    assert least <= 0.1
    assert most >= 0.3


def test_one_batch_says_little() -> None:
    known = learnt((8, 0.1), times=1)
    assert (known.least_seconds(8), known.most_seconds(8)) == (0.0, pytest.approx(0.2))
