"""When the next batch is taken while one is being computed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_engines.engine import DeviceTimes
from headrace_server.core.lookahead import GUARD_SECONDS, Lookahead, take_at

MS = 1_000_000


@pytest.mark.parametrize(
    ("now", "computed_at", "waiting_rows", "ahead_seconds", "at"),
    [
        (1.0, 1.010, 0, 0.002, 1.008 - GUARD_SECONDS),
        (1.0, 1.010, 7, 0.002, 1.008 - GUARD_SECONDS),
        (1.0, 1.010, 8, 0.002, 1.0),
        (1.0, 1.010, 9, 0.002, 1.0),
        (1.009, 1.010, 1, 0.002, 1.009),
        (2.0, 1.010, 1, 0.0, 2.0),
        (1.0, 1.010, 1, 0.020, 1.0),
    ],
)
def test_a_batch_is_taken_when_it_is_full_or_there_is_no_more_time_to_wait(
    now: float, computed_at: float, waiting_rows: int, ahead_seconds: float, at: float
) -> None:
    assert take_at(now, computed_at, waiting_rows, 8, ahead_seconds) == pytest.approx(at)


@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 20), st.integers(1, 16), st.floats(0, 1))
def test_it_is_never_taken_after_the_running_one_should_be_done(
    now: float, computed_at: float, waiting: int, largest: int, ahead: float
) -> None:
    at = take_at(now, computed_at, waiting, largest, ahead)
    assert now <= at <= max(now, computed_at)


def steady(lookahead: Lookahead, batches: int, rows: int, compute_ms: int, times: DeviceTimes | None) -> int:
    """Let batches land one after another that were assembled in 1 ms; return when the last had landed."""
    landed_ns = 0
    for _ in range(batches):
        begun_ns, started_ns = landed_ns, landed_ns + MS
        landed_ns = started_ns + compute_ms * MS
        if times is not None:
            landed_ns += times.copy_in_ns + times.copy_out_ns
        lookahead.landed(rows, begun_ns, started_ns, landed_ns, times)
    return landed_ns


def test_until_it_is_known_what_batches_take_they_are_taken_at_once() -> None:
    lookahead = Lookahead(64)
    assert lookahead.take_at(1.0, 1, 8, 1_000_000_000) == 1.0
    landed_ns = steady(lookahead, 1, 8, 20, None)
    now = landed_ns * 1e-9
    assert lookahead.take_at(now, 1, 8, landed_ns) == now


@pytest.mark.parametrize(
    ("times", "ahead_seconds"),
    [(None, 0.001), (DeviceTimes(2 * MS, 20 * MS, 3 * MS), 0.003)],
    ids=["by the host's clock", "by the device's"],
)
def test_once_it_is_known_the_next_is_taken_as_late_as_it_can_be(
    times: DeviceTimes | None, ahead_seconds: float
) -> None:
    lookahead = Lookahead(64)
    landed_ns = steady(lookahead, 60, 8, 20, times)
    started_ns = landed_ns + MS
    at = lookahead.take_at(started_ns * 1e-9, 1, 8, started_ns)
    latest = started_ns * 1e-9 + 0.020 - ahead_seconds - GUARD_SECONDS
    assert latest - 0.002 < at <= latest + 1e-9
    assert lookahead.take_at(started_ns * 1e-9, 64, 8, started_ns) == started_ns * 1e-9, "it is full"


def test_a_batch_behind_another_is_computed_from_when_that_one_is_done() -> None:
    lookahead = Lookahead(64)
    times = DeviceTimes(MS, 20 * MS, MS)
    landed_ns = steady(lookahead, 60, 8, 20, times)
    early_ns = landed_ns - 15 * MS
    at = lookahead.take_at(landed_ns * 1e-9, 1, 8, early_ns)
    computed = (landed_ns - MS) * 1e-9 + 0.020
    assert computed - 0.005 < at < computed


def test_a_device_whose_times_differ_much_is_not_waited_for() -> None:
    lookahead = Lookahead(64)
    landed_ns = 0
    for turn in range(60):
        started_ns = landed_ns
        landed_ns += (1 + 39 * (turn % 2)) * MS
        lookahead.landed(8, started_ns, started_ns, landed_ns, None)
    now = landed_ns * 1e-9
    assert lookahead.take_at(now, 1, 8, landed_ns) - now < 0.005
