"""A worker that has time waits for a full batch: what wakes it, and what the batch holds then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hosted_server import eventually
from scripted_devices import ScriptedDevice
from scripted_engines import PATIENCE_SECONDS, Answers, Served, answered, rows_spec, serving
from works import work_of

from headrace_engines.engine import DeviceTimes
from headrace_server.core.model import Limits, Model
from headrace_server.errors import DeviceLost

FOR_EVER_SECONDS = 3600.0
HOUR = DeviceTimes(0, 3_600_000_000_000, 0)


class Waiting:
    """A model, and a thread that waits for a full batch of three rows."""

    def __init__(self, seconds: float = FOR_EVER_SECONDS) -> None:
        self.model = Model("m", "1", rows_spec(3), "scripted", Limits())
        until = time.monotonic() + seconds
        self._thread = threading.Thread(target=self.model.await_batch, args=[until], daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until the thread waits."""
        eventually(lambda: bool(self.model._dispatch._awaiting) or self.has_returned, "it waits")

    @property
    def has_returned(self) -> bool:
        return not self._thread.is_alive()

    def submit(self, rows: int = 1, *, hold: bool = False) -> None:
        self.model.submit(work_of(self.model, Answers(), rows=rows), hold=hold)

    def returns(self) -> bool:
        self._thread.join(PATIENCE_SECONDS)
        return self.has_returned


@pytest.mark.parametrize("rows", [(1, 1, 1), (2, 1), (3,), (2, 2)])
def test_a_full_batch_ends_the_wait(rows: tuple[int, ...]) -> None:
    waiting = Waiting()
    waiting.settle()
    for some in rows:
        assert not waiting.has_returned
        waiting.submit(some)
    assert waiting.returns()


def test_one_that_is_full_already_is_not_waited_for() -> None:
    model = Model("m", "1", rows_spec(1), "scripted", Limits())
    model.submit(work_of(model, Answers()))
    model.await_batch(time.monotonic() + FOR_EVER_SECONDS)
    assert model.waiting_rows == 1


def test_what_is_held_counts_once_it_is_released() -> None:
    waiting = Waiting()
    waiting.settle()
    for _ in range(3):
        waiting.submit(hold=True)
    assert not waiting.has_returned
    waiting.model.release()
    assert waiting.returns()


@pytest.mark.parametrize(
    "end",
    [lambda model: model.close(drain=True), lambda model: model.lose("gone", [])],
    ids=["closed", "lost"],
)
def test_a_model_that_ends_ends_the_wait(end: Callable[[Model], None]) -> None:
    waiting = Waiting()
    waiting.settle()
    end(waiting.model)
    assert waiting.returns()


def test_the_wait_ends_with_its_time() -> None:
    assert Waiting(seconds=0.01).returns()


def test_an_instance_that_has_nothing_to_do_is_woken_before_one_that_waits_for_a_full_batch() -> None:
    waiting = Waiting()
    waiting.settle()
    taken: list[object] = []
    idle = threading.Thread(target=lambda: taken.append(waiting.model.take(wait=True, instance=1)))
    idle.start()
    eventually(lambda: waiting.model._dispatch._idle == 2, "both wait")
    waiting.submit()
    idle.join(PATIENCE_SECONDS)
    assert len(taken) == 1
    assert not waiting.has_returned
    waiting.model.close(drain=True)
    assert waiting.returns()


@contextmanager
def running() -> Iterator[tuple[Served, ScriptedDevice]]:
    """Serve on a device that says that each batch takes an hour, with one in flight, named "running"."""
    device = ScriptedDevice(rows_spec(4), device_times=HOUR)
    with serving(device) as served:
        for key in range(40):
            served.infer(key, *range(4))
            if key:
                served.answers.wait_for(key - 1)
        served.infer("running", *range(100, 104))
        served.answers.wait_for(39)
        yield served, device


def test_once_it_is_known_what_batches_take_the_next_one_is_taken_late() -> None:
    with running() as (served, device):
        for value in (1, 2, 3, 4):
            served.infer(f"next {value}", value)
        assert served.answers.rows_of("running") == answered(*range(100, 104))
        assert device.submitted[-1] == [1, 2, 3, 4], "none of them was taken before the batch was full"


def test_a_model_that_is_closed_while_there_is_time_answers_what_it_has() -> None:
    with running() as (served, _):
        served.infer("next", 1)
        served.model.close(drain=True)
        assert served.answers.rows_of("running") == answered(*range(100, 104))
        assert served.answers.rows_of("next") == answered(1)


def test_invariant_1_a_gpu_that_is_lost_while_there_is_time_keeps_nobody_waiting() -> None:
    with running() as (served, _):
        served.infer("next", 1)
        served.model.lose_gpu(0, "it never ends")
        assert isinstance(served.answers.error_of("running"), DeviceLost)
        assert isinstance(served.answers.error_of("next"), DeviceLost)
