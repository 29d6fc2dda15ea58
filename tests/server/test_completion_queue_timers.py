"""Timers on a thread of their own."""

from __future__ import annotations

import functools
import gc
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace_server.transport.completion_queue.timers import Timers

PATIENCE_SECONDS = 10.0


@pytest.fixture
def timers() -> Iterator[Timers]:
    made = Timers()
    yield made
    made.close()


@contextmanager
def busy(timers: Timers) -> Iterator[None]:
    """Keep the timers' thread from doing anything else while the block runs."""
    is_busy, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        is_busy.set()
        goes_on.wait(PATIENCE_SECONDS)

    timers.add(0.0, wait)
    assert is_busy.wait(PATIENCE_SECONDS)
    try:
        yield
    finally:
        goes_on.set()


def test_what_is_due_first_is_done_first(timers: Timers) -> None:
    done: queue.Queue[str] = queue.Queue()
    with busy(timers):
        for hours_ago, name in ((1, "third"), (3, "first"), (2, "second")):
            timers.add(-3600.0 * hours_ago, functools.partial(done.put, name))
    assert [done.get(timeout=PATIENCE_SECONDS) for _ in range(3)] == ["first", "second", "third"]


def test_nothing_is_done_before_its_time(timers: Timers) -> None:
    done: queue.Queue[float] = queue.Queue()
    begun = time.monotonic()
    timers.add(0.05, lambda: done.put(time.monotonic()))
    assert done.get(timeout=PATIENCE_SECONDS) - begun >= 0.05


def test_what_was_cancelled_is_not_done_and_others_are(timers: Timers) -> None:
    done: queue.Queue[str] = queue.Queue()
    with busy(timers):
        cancelled = timers.add(0.0, lambda: done.put("cancelled"))
        timers.add(0.0, lambda: done.put("stays"))
        cancelled.cancel()
        cancelled.cancel()
    assert done.get(timeout=PATIENCE_SECONDS) == "stays"
    assert done.empty()


def test_one_that_fails_costs_the_others_nothing(timers: Timers, caplog: pytest.LogCaptureFixture) -> None:
    done: queue.Queue[str] = queue.Queue()
    timers.add(0.0, [].pop)
    timers.add(0.01, lambda: done.put("done"))
    assert done.get(timeout=PATIENCE_SECONDS) == "done"
    assert "IndexError" in caplog.text


def test_invariant_4_cancelled_timers_keep_nothing_however_far_off_they_are(timers: Timers) -> None:
    class Large:
        def done(self) -> None: ...

    for _ in range(10_000):
        timers.add(3600.0, Large().done).cancel()
    gc.collect()
    assert sum(isinstance(one, Large) for one in gc.get_objects()) == 0
    assert len(timers._due) < 1000


def test_a_time_that_no_clock_can_wait_for_holds_up_nothing(timers: Timers) -> None:
    done: queue.Queue[str] = queue.Queue()
    timers.add(1e15, lambda: done.put("far off"))
    timers.add(0.01, lambda: done.put("done"))
    assert done.get(timeout=PATIENCE_SECONDS) == "done"
    far = timers.add(1e300, lambda: None)
    far.cancel()


def test_after_the_end_nothing_is_done() -> None:
    done: list[str] = []
    timers = Timers()
    timers.add(0.0, lambda: None)
    timers.add(3600.0, lambda: done.append("late"))
    timers.close()
    assert done == []
