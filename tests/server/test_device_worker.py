"""Engines on devices: what becomes of what is in flight when one is spoilt, made anew, or lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hosted_server import eventually
from scripted_devices import SPOILT, Hang, ScriptedDevice
from scripted_engines import (
    PATIENCE_SECONDS,
    RAGGED,
    Arrays,
    FailsOn,
    Gate,
    ScriptedEngine,
    Served,
    answered,
    rows_spec,
)

from headrace_engines.engine import DeviceTimes
from headrace_engines.errors import DeviceError, EngineSpoilt, ExecutionError, MemoryExhausted
from headrace_server.core.device_worker import DeviceWorker
from headrace_server.core.model import Limits
from headrace_server.core.statistics import Compute
from headrace_server.core.trials import trials_on
from headrace_server.errors import DeadlineMissed, DeviceLost, EngineFailed


class FitsRows:
    """Has memory for so many rows; an engine's `before`."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __call__(self, inputs: Arrays) -> None:
        if (came := len(inputs[0])) > self._rows:
            raise MemoryExhausted(f"{came} rows came, {self._rows} fit")


@contextmanager
def serving(device: ScriptedEngine, *requests: Sequence[int]) -> Iterator[Served]:
    """Have these requests wait, by their place from 0, then serve them until the block ends."""
    served = Served(device, Limits())
    for key, values in enumerate(requests):
        served.infer(key, *values)
    served.worker.start()
    yield served
    served.model.close(drain=True)
    assert served.worker.join(PATIENCE_SECONDS)
    assert device.closed.is_set()
    assert all(len(came) == 1 for came in served.answers.by_key.values())


@pytest.mark.parametrize("slots", [1, 2])
def test_a_batch_that_spoilt_the_engine_fails_alone(slots: int, caplog: pytest.LogCaptureFixture) -> None:
    device = ScriptedDevice(rows_spec(2), slots=slots, poison=[13])
    with serving(device, (1, 2), (13, 3), (5, 6), (7,)) as served:
        error = served.answers.error_of(1)
        assert isinstance(error, EngineFailed)
        assert SPOILT not in str(error), "the reason is for the log"
        for key, values in ((0, (1, 2)), (2, (5, 6)), (3, (7,))):
            assert served.answers.rows_of(key) == answered(*values)
        assert served.model.lost is None
    assert device.renewals >= 1
    assert SPOILT in caplog.text
    assert error.error_id in caplog.text


def test_what_was_handed_over_behind_a_batch_that_spoilt_the_engine_is_executed_again_with_its_own_rows() -> (
    None
):
    device = ScriptedDevice(rows_spec(1), poison=[13])
    with serving(device, (13,), (1,), (2,)) as served:
        assert isinstance(served.answers.error_of(0), EngineFailed)
        assert served.answers.rows_of(1) == answered(1)
        assert served.answers.rows_of(2) == answered(2)
    assert device.submitted[:2] == [[13], [13]], "that it was the cause is known once it is executed alone"
    assert device.renewals == 2


def test_a_batch_that_may_have_been_the_cause_is_executed_once_more_before_those_behind_it() -> None:
    device = ScriptedDevice(rows_spec(1))
    device.script["wait"].append(EngineSpoilt(SPOILT))
    with serving(device, (1,), (2,), (3,)) as served:
        assert [served.answers.rows_of(key) for key in range(3)] == [answered(key + 1) for key in range(3)]
    assert device.submitted == [[1], [2], [1], [2], [3]]


def test_a_batch_that_spoils_the_engine_twice_fails_and_is_not_executed_again() -> None:
    device = ScriptedDevice(rows_spec(1))
    device.script["wait"].extend([EngineSpoilt(SPOILT), EngineSpoilt(SPOILT)])
    with serving(device, (1,), (2,)) as served:
        assert isinstance(served.answers.error_of(0), EngineFailed)
        assert served.answers.rows_of(1) == answered(2)
    assert device.submitted == [[1], [2], [1], [2]]
    assert device.renewals == 2


def test_a_batch_that_may_be_the_cause_is_tried_while_nothing_else_on_its_gpu_is_executed() -> None:
    gate, renews, goes_on = Gate(), threading.Event(), threading.Event()
    culprit = ScriptedDevice(rows_spec(1), gpu=7, poison=[13])
    beside = ScriptedDevice(rows_spec(1), gpu=7, before=gate)
    culprit.beside = [beside]
    renew = culprit.renew

    def slow_renewal() -> None:
        renews.set()
        assert goes_on.wait(PATIENCE_SECONDS)
        renew()

    culprit.renew = slow_renewal  # type: ignore[method-assign]  # the other engine is the first to be renewed
    with serving(beside, (1,)) as innocent:
        gate.arrival()
        with serving(culprit, (13,), (2,)) as guilty:
            assert renews.wait(PATIENCE_SECONDS)
            gate.let_one_through()
            gate.arrival()
            goes_on.set()
            eventually(lambda: len(trials_on(7)._turns) == 2, "the culprit waits for its turn")
            gate.open()
            assert innocent.answers.rows_of(0) == answered(1)
            assert isinstance(guilty.answers.error_of(0), EngineFailed)
            assert guilty.answers.rows_of(1) == answered(2)
    assert not trials_on(7).are_on


class Party:
    """Another one on the GPU."""

    has_batch = True


def test_who_has_its_turn_gives_it_back_though_the_trials_have_ended_meanwhile() -> None:
    trials, suspect, gate = trials_on(8), Party(), Gate()
    trials.join(suspect)
    trials.suspect()
    with serving(ScriptedDevice(rows_spec(1), gpu=8, before=gate), (1,)) as served:
        gate.arrival()
        trials.leave(suspect)
        gate.open()
        assert served.answers.rows_of(0) == answered(1)
        served.infer(1, 2)
        assert served.answers.rows_of(1) == answered(2), "the first has left the air"
        assert not trials._turns


def test_who_waited_for_its_turn_holds_nobody_up_once_it_is_idle() -> None:
    trials, gate = trials_on(10), Gate()
    device = ScriptedDevice(rows_spec(1), gpu=10, before=gate)
    device.script["wait"].append(EngineSpoilt(SPOILT))
    with serving(device, (1,)) as spoilt, serving(ScriptedDevice(rows_spec(1), gpu=10)) as other:
        gate.arrival()
        other.infer(0, 5)
        eventually(lambda: len(trials._turns) == 2, "it waits for its turn")
        gate.open()
        assert (spoilt.answers.rows_of(0), other.answers.rows_of(0)) == (answered(1), answered(5))
        device.script["wait"].append(EngineSpoilt(SPOILT))
        spoilt.infer(1, 2)
        assert spoilt.answers.rows_of(1) == answered(2)


def test_who_lands_while_it_is_being_suspected_is_acquitted(monkeypatch: pytest.MonkeyPatch) -> None:
    trials, gate = trials_on(9), Gate()
    with serving(ScriptedDevice(rows_spec(1), gpu=9, before=gate), (1,)) as served:

        def has_batch(worker: DeviceWorker) -> bool:
            had = bool(worker._flights)
            gate.open()
            assert served.answers.rows_of(0) == answered(1)
            return had

        gate.arrival()
        monkeypatch.setattr(DeviceWorker, "has_batch", property(has_batch))
        trials.suspect()
        eventually(lambda: not trials.are_on, "it is acquitted")


@pytest.mark.parametrize("call", ["submit", "wait"])
def test_a_batch_that_was_not_executed_is_executed_by_the_renewed_engine(call: str) -> None:
    device = ScriptedDevice(rows_spec(2))
    device.script[call].append(EngineSpoilt(SPOILT, was_executed=False))
    with serving(device, (1, 2), (3, 4), (5,)) as served:
        for key, values in ((0, (1, 2)), (1, (3, 4)), (2, (5,))):
            assert served.answers.rows_of(key) == answered(*values)
    assert device.renewals == 1


def test_what_is_executed_with_arrays_of_its_own_is_executed_again_likewise() -> None:
    device = ScriptedDevice(RAGGED, slots=1, poison=[13])
    with serving(device, (1, 2), (13,), (3, 4, 5)) as served:
        assert isinstance(served.answers.error_of(1), EngineFailed)
        assert served.answers.rows_of(0) == answered(1, 2)
        assert served.answers.rows_of(2) == answered(3, 4, 5)


def test_an_engine_that_was_spoilt_before_it_served_is_made_anew_first() -> None:
    device = ScriptedDevice()
    device.spoil()
    with serving(device, (1,)) as served:
        assert served.answers.rows_of(0) == answered(1)
    assert device.renewals == 1


def test_requests_of_the_batch_that_spoilt_the_engine_are_not_executed_alone() -> None:
    device = ScriptedDevice(rows_spec(4), poison=[2])
    with serving(device, (1,), (2,), (3,)) as served:
        assert all(isinstance(served.answers.error_of(key), EngineFailed) for key in range(3))
    assert device.submitted == [[1, 2, 3]] * 2


def test_a_batch_that_memory_does_not_suffice_for_is_halved_until_it_does_and_the_next_are_smaller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = ScriptedDevice(rows_spec(8), slots=1, before=FitsRows(2))
    with serving(device, *((value,) for value in range(12))) as served:
        for value in range(12):
            assert served.answers.rows_of(value) == answered(value)
        assert served.model.snapshot().memory_exhausted == 3
    whole = [list(range(8)), [0, 1, 2, 3], [0, 1], [2, 3], [4, 5, 6, 7], [4, 5], [6, 7]]
    assert device.submitted == [*whole, [8, 9], [10, 11]]
    assert caplog.text.count("memory does not suffice for a batch of 8 rows") == 1
    assert caplog.text.count("memory does not suffice") == 1


def test_one_request_that_memory_does_not_suffice_for_fails_in_the_words_of_its_error() -> None:
    device = ScriptedDevice(rows_spec(8), slots=1, before=FitsRows(2))
    with serving(device, (1, 2, 3), (4,)) as served:
        assert "3 rows came, 2 fit" in str(served.answers.error_of(0))
        assert served.answers.rows_of(1) == answered(4)


@pytest.mark.parametrize("error", [ExecutionError("not this"), MemoryExhausted("2 MiB asked, 1 MiB free")])
def test_requests_of_a_batch_that_failed_otherwise_are_executed_alone(error: ExecutionError) -> None:
    device = ScriptedDevice(rows_spec(2), before=FailsOn(13, error))
    with serving(device, (1,), (13,), (2,), (3,)) as served:
        assert isinstance(served.answers.error_of(1), EngineFailed)
        for key, value in ((0, 1), (2, 2), (3, 3)):
            assert served.answers.rows_of(key) == answered(value)
    assert device.renewals == 0


def test_what_is_executed_again_is_only_what_somebody_waits_for_in_time() -> None:
    device = ScriptedDevice(rows_spec(8))
    has_begun, goes_on = threading.Event(), threading.Event()
    renew = device.renew

    def slow_renewal() -> None:
        has_begun.set()
        assert goes_on.wait(PATIENCE_SECONDS)
        renew()

    device.renew = slow_renewal  # type: ignore[method-assign]  # the device takes its time
    device.script["submit"].append(EngineSpoilt(SPOILT, was_executed=False))
    served = Served(device, Limits())
    late, gone, _ = (served.infer(key, value) for key, value in (("late", 1), ("gone", 2), ("stays", 3)))
    served.worker.start()
    assert has_begun.wait(PATIENCE_SECONDS)
    late.deadline = 0.0
    served.model.cancel(gone)
    served.infer("waits", 4)
    goes_on.set()
    assert served.answers.rows_of("stays") == answered(3)
    assert served.answers.rows_of("waits") == answered(4)
    assert isinstance(served.answers.error_of("late"), DeadlineMissed)
    assert not served.answers.by_key["gone"]
    served.model.close(drain=True)
    assert served.worker.join(PATIENCE_SECONDS)
    assert device.submitted[0] == [3]
    figures = served.model.snapshot()
    assert (figures.success.count, figures.fail.count, figures.cancel.count) == (2, 1, 1)


@pytest.mark.parametrize(
    "errors",
    [
        [DeviceError("the GPU does not answer")],
        [EngineSpoilt("spoilt by another"), DeviceError("the GPU does not answer")],
        [MemoryExhausted("the GPU does not answer")],
    ],
    ids=["lost", "spoilt again, then lost", "no memory"],
)
def test_invariant_8_an_engine_that_cannot_be_made_anew_is_lost_with_its_gpu(
    errors: Sequence[Exception],
) -> None:
    device = ScriptedDevice(rows_spec(1), gpu=3, poison=[13])
    device.script["renew"].extend(errors)
    with serving(device, (1,), (13,), (2,), (3,)) as served:
        assert all(isinstance(served.answers.error_of(key), DeviceLost | EngineFailed) for key in (1, 2, 3))
        assert isinstance(served.answers.error_of(3), DeviceLost)
        assert "the GPU does not answer" in str(served.model.lost)
        assert served.model.lost_gpu == 3


def test_invariant_8_an_engine_that_is_spoilt_again_and_again_without_an_answer_is_lost() -> None:
    device = ScriptedDevice(rows_spec(1), poison=range(100))
    with serving(device, *((value,) for value in range(100))) as served:
        assert isinstance(served.answers.error_of(0), EngineFailed)
        assert isinstance(served.answers.error_of(99), DeviceLost)
        assert served.model.lost_gpu == 0
    assert device.renewals < 20


def test_callers_who_spoil_the_engine_between_others_do_not_end_it() -> None:
    device = ScriptedDevice(rows_spec(1), poison=[13])
    with serving(device, *((13 if place % 2 else place,) for place in range(20))) as served:
        for place in range(0, 20, 2):
            assert served.answers.rows_of(place) == answered(place)
        assert all(isinstance(served.answers.error_of(place), EngineFailed) for place in range(1, 20, 2))
        assert served.model.lost is None


def test_an_engine_without_a_device_cannot_be_made_anew() -> None:
    engine = ScriptedEngine(rows_spec(1), slots=2, before=FailsOn(13, EngineSpoilt(SPOILT)))
    with serving(engine, (13,), (1,)) as served:
        assert all(isinstance(served.answers.error_of(key), DeviceLost) for key in range(2))
        assert served.model.lost_gpu is None


def test_invariant_1_what_a_stuck_thread_holds_is_answered_once_though_it_comes_back() -> None:
    hang = Hang(13)
    device = ScriptedDevice(rows_spec(1), gpu=1, before=hang)
    with serving(device, (13,), (1,), (2,)) as served:
        assert hang.began.wait(PATIENCE_SECONDS)
        (one,) = served.model.instances.executing()
        assert (one.gpu, one.requests) == (1, 2)
        served.model.lose_gpu(0, "another GPU")
        assert served.model.lost is None
        served.model.lose_gpu(1, "its kernel never ends")
        for key in range(3):
            error = served.answers.error_of(key)
            assert isinstance(error, DeviceLost)
            assert "its kernel never ends" in str(error)
        assert served.worker.join(PATIENCE_SECONDS), "nobody waits for it"
        assert not device.closed.is_set()
        assert not served.model.instances.executing()
        served.model.lose_gpu(1, "its kernel never ends")
        hang.released.set()
        assert device.closed.wait(PATIENCE_SECONDS), "it ends all the same"
    assert served.losses == ["its kernel never ends"]
    assert served.model.snapshot().fail.count == 3


def test_an_engine_that_is_being_made_anew_is_seen_though_it_has_nothing_in_hand() -> None:
    device = ScriptedDevice(rows_spec(1))
    device.spoil()
    has_begun, goes_on = threading.Event(), threading.Event()

    def hanging_renewal() -> None:
        has_begun.set()
        assert goes_on.wait(PATIENCE_SECONDS)

    device.renew = hanging_renewal  # type: ignore[method-assign]  # the device does not answer
    with serving(device) as served:
        assert has_begun.wait(PATIENCE_SECONDS)
        (one,) = served.model.instances.executing()
        assert (one.gpu, one.requests, one.is_renewal) == (0, 0, True)
        served.model.lose_gpu(0, "it hangs")
        assert served.worker.join(PATIENCE_SECONDS)
        goes_on.set()
        assert device.closed.wait(PATIENCE_SECONDS)


def test_the_device_s_own_times_part_the_batch_s(caplog: pytest.LogCaptureFixture) -> None:
    times = DeviceTimes(copy_in_ns=5, compute_ns=70, copy_out_ns=9)
    device = ScriptedDevice(device_times=times)
    with caplog.at_level(logging.DEBUG), serving(device) as served:
        for key in range(3):
            served.infer(key, key)
            served.answers.wait_for(key)
        figures = served.model.snapshot()
    assert figures.on_device == Compute(3, 15, 210, 27)
    assert figures.compute_input.ns >= 15
    assert figures.compute_infer.ns == 210, "and nothing that a batch waited for"
    assert figures.compute_output.ns >= 27
    assert figures.success.ns == figures.queue.ns + figures.compute.ns
    assert "model m: 1 rows: copy in 0.000 ms, compute 0.000 ms, copy out 0.000 ms" in caplog.text


def test_times_that_are_longer_than_the_batch_was_do_not_make_any_time_negative() -> None:
    hour = 3_600_000_000_000
    device = ScriptedDevice(device_times=DeviceTimes(hour, hour, hour))
    with serving(device, (1,)) as served:
        served.answers.wait_for(0)
        figures = served.model.snapshot()
    assert min(figures.compute_input.ns, figures.compute_infer.ns, figures.compute_output.ns) >= 0
    assert figures.compute.ns < hour


class TimesFail(ScriptedDevice):
    def times(self, slot: int) -> DeviceTimes | None:
        raise EngineSpoilt("another engine spoilt the device meanwhile")


def test_times_that_cannot_be_read_cost_nobody_an_answer() -> None:
    with serving(TimesFail(), (1,)) as served:
        assert served.answers.rows_of(0) == answered(1)
        assert served.model.snapshot().on_device.count == 0


def test_two_batches_are_in_flight_and_a_third_waits() -> None:
    gate = Gate()
    device = ScriptedDevice(rows_spec(1), before=gate)
    with serving(device, (1,), (2,), (3,)) as served:
        gate.arrival()
        assert device.submitted == [[1], [2]]
        assert served.model.waiting == 1
        gate.open()
        assert [served.answers.rows_of(key) for key in range(3)] == [answered(key + 1) for key in range(3)]
