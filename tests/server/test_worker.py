from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engines import (
    PATIENCE_SECONDS,
    RAGGED,
    ROWS,
    WITHOUT_BATCH,
    Arrays,
    FailsOn,
    Gate,
    ScriptedEngine,
    Served,
    answered,
    rows_executed,
    rows_spec,
    serving,
)

from headrace_engines.errors import ExecutionError
from headrace_engines.spec import ModelSpec
from headrace_server.core.model import Limits
from headrace_server.core.request import Work
from headrace_server.errors import (
    DeadlineMissed,
    EngineFailed,
    InferenceError,
    Overloaded,
    ShuttingDown,
)


@pytest.mark.parametrize(
    ("spec", "values"),
    [(ROWS, (5, 6, 7)), (RAGGED, (5, 6, 7)), (WITHOUT_BATCH, (5, 6))],
    ids=["staged", "ragged", "without a batch axis"],
)
def test_a_request_gets_its_rows(spec: ModelSpec, values: tuple[int, ...]) -> None:
    with serving(ScriptedEngine(spec)) as served:
        served.infer("a", *values)
        assert served.answers.rows_of("a") == answered(*values)


def test_what_waits_while_the_engine_is_busy_is_executed_together() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        for value in range(1, 9):
            served.infer(value, value)
        served.infer("ninth", 9)
        gate.open()
        assert [served.answers.rows_of(value) for value in range(1, 9)] == [answered(v) for v in range(1, 9)]
        served.answers.wait_for("ninth")
    assert rows_executed(served.engine) == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9]]


def test_an_idle_engine_executes_one_request_without_waiting_for_more() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("only", 1)
        (inputs,) = gate.arrival()
        assert inputs.tolist() == [[1]]
        assert served.model.waiting == 0


def test_rows_of_several_callers_share_a_batch_and_each_gets_its_own() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("a", 1, 2, 3)
        served.infer("b", 4)
        served.infer("c", 5, 6)
        gate.open()
        assert served.answers.rows_of("a") == answered(1, 2, 3)
        assert served.answers.rows_of("b") == answered(4)
        assert served.answers.rows_of("c") == answered(5, 6)
    assert rows_executed(served.engine)[1] == [1, 2, 3, 4, 5, 6]


def test_a_request_that_does_not_fit_waits_for_the_next_batch_whole() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("a", 1, 2, 3, 4, 5)
        served.infer("b", 6, 7, 8, 9)
        gate.open()
        served.answers.wait_for("a", "b")
    assert rows_executed(served.engine)[1:] == [[1, 2, 3, 4, 5], [6, 7, 8, 9]]


def test_only_equal_shapes_share_a_batch() -> None:
    gate = Gate()
    with serving(ScriptedEngine(RAGGED, before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        for key, values in (("a", (1, 2)), ("b", (3,)), ("c", (4, 5)), ("d", (6,))):
            served.infer(key, *values)
        gate.open()
        assert served.answers.rows_of("c") == answered(4, 5)
        served.answers.wait_for("a", "b", "c", "d")
    assert [inputs[0].tolist() for inputs in served.engine.executed[1:]] == [[[1, 2], [4, 5]], [[3], [6]]]


def test_a_model_without_a_batch_axis_executes_each_request_alone() -> None:
    gate = Gate()
    with serving(ScriptedEngine(WITHOUT_BATCH, before=gate)) as served:
        served.infer("first", 0, 0)
        gate.arrival()
        served.infer("a", 1, 2)
        served.infer("b", 3, 4)
        gate.open()
        assert served.answers.rows_of("a") == answered(1, 2)
        assert served.answers.rows_of("b") == answered(3, 4)
    assert rows_executed(served.engine) == [[0, 0], [1, 2], [3, 4]]


class DeviceWithTwoSlots(ScriptedEngine):
    """Tells when a second batch is submitted before the first has been waited for."""

    def __init__(self) -> None:
        self.both_in_flight = threading.Event()
        self.go = threading.Event()
        super().__init__(slots=2)

    def submit(self, slot: int, rows: int) -> None:
        super().submit(slot, rows)
        if len(self._pending) == 2:
            self.both_in_flight.set()

    def wait(self, slot: int) -> Arrays:
        assert self.go.wait(PATIENCE_SECONDS)
        return super().wait(slot)


def test_an_engine_with_two_slots_has_two_batches_in_flight() -> None:
    engine = DeviceWithTwoSlots()
    served = Served(engine, Limits())
    for batch in range(4):
        served.infer(batch, *range(8 * batch, 8 * batch + 8))
    served.worker.start()
    assert engine.both_in_flight.wait(PATIENCE_SECONDS)
    engine.go.set()
    for batch in range(4):
        assert served.answers.rows_of(batch) == answered(*range(8 * batch, 8 * batch + 8))
    served.model.close(drain=True)
    assert served.worker.join(PATIENCE_SECONDS)
    assert len(engine.executed) == 4


def test_a_failure_in_one_slot_leaves_the_other_slots_batch_alone() -> None:
    engine = ScriptedEngine(rows_spec(1), slots=2, before=FailsOn(2, ExecutionError("two")))
    served = Served(engine, Limits())
    for value in range(5):
        served.infer(value, value)
    served.worker.start()
    for value in (0, 1, 3, 4):
        assert served.answers.rows_of(value) == answered(value)
    assert isinstance(served.answers.error_of(2), EngineFailed)
    served.model.close(drain=True)
    assert served.worker.join(PATIENCE_SECONDS)


def test_a_deadline_missed_in_the_queue_is_answered_and_never_executed() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        now_ns = time.monotonic_ns()
        late = served.infer("late", 1, deadline=now_ns * 1e-9 + 0.001, now_ns=now_ns)
        while time.monotonic() <= late.deadline:
            pass
        gate.open()
        assert isinstance(served.answers.error_of("late"), DeadlineMissed)
        served.answers.wait_for("first")
    assert rows_executed(served.engine) == [[0]]
    assert (served.model.statistics.fail.count, served.model.statistics.success.count) == (1, 1)


def test_expired_work_is_answered_while_the_engine_is_busy() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        late = served.infer("late", 1, deadline=time.monotonic() + 100)
        served.model.expire(late)
        assert isinstance(served.answers.error_of("late"), DeadlineMissed)
        served.model.expire(late)
        gate.open()
        served.answers.wait_for("first")
    assert rows_executed(served.engine) == [[0]]
    assert len(served.answers.by_key["late"]) == 1


def test_work_in_execution_does_not_expire() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        work = served.infer("a", 1, deadline=time.monotonic() + 100)
        gate.arrival()
        served.model.expire(work)
        gate.open()
        assert served.answers.rows_of("a") == answered(1)


def test_invariant_3_work_cancelled_in_the_queue_is_never_executed_and_costs_its_neighbours_nothing() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("a", 1)
        gone = served.infer("gone", 2)
        served.infer("b", 3)
        served.model.cancel(gone)
        assert served.model.waiting == 2
        gate.open()
        assert served.answers.rows_of("a") == answered(1)
        assert served.answers.rows_of("b") == answered(3)
    assert rows_executed(served.engine) == [[0], [1, 3]]
    assert "gone" not in {key for key, answers in served.answers.by_key.items() if answers}
    assert served.model.statistics.cancel.count == 1


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate), Limits(max_queue_size=2)) as served:
        served.infer("first", 0)
        gate.arrival()
        work = served.infer("a", 1)
        served.infer("b", 2)
        with pytest.raises(Overloaded, match="2 requests wait") as refused:
            served.infer("c", 3)
        assert refused.value.retry_after_seconds > 0
        served.model.cancel(work)
        served.infer("d", 4)
        gate.open()
        served.answers.wait_for("first", "b", "d")
    assert rows_executed(served.engine) == [[0], [2, 4]]


def test_invariant_4_bytes_that_wait_are_bounded() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate), Limits(max_queue_bytes=24)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("a", 1, 2)
        with pytest.raises(Overloaded, match="16 bytes wait, the limit is 24"):
            served.infer("b", 3, 4)
        served.infer("c", 5)
        gate.open()
        served.answers.wait_for("a", "c")


def test_closing_with_drain_executes_what_waits() -> None:
    gate = Gate()
    with serving(ScriptedEngine(rows_spec(1), before=gate)) as served:
        for value in range(4):
            served.infer(value, value)
        gate.arrival()
        served.model.close(drain=True)
        with pytest.raises(ShuttingDown):
            served.infer("late", 9)
        gate.open()
        for value in range(4):
            assert served.answers.rows_of(value) == answered(value)


def test_closing_without_drain_answers_what_waits_and_finishes_what_runs() -> None:
    gate = Gate()
    with serving(ScriptedEngine(rows_spec(1), before=gate)) as served:
        for value in range(4):
            served.infer(value, value)
        gate.arrival()
        served.model.close(drain=False)
        for value in range(1, 4):
            assert isinstance(served.answers.error_of(value), ShuttingDown)
        gate.open()
        assert served.answers.rows_of(0) == answered(0)
    assert rows_executed(served.engine) == [[0]]


def test_statistics_tell_rows_batches_and_time() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("a", 1, 2)
        served.infer("b", 3)
        gate.open()
        served.answers.wait_for("first", "a", "b")
        statistics = served.model.statistics
        assert statistics.inference_count == 4
        assert statistics.execution_count == 2
        assert statistics.success.count == statistics.queue.count == 3
        assert sorted(statistics.by_batch_size) == [1, 3]
        parts = (statistics.queue, statistics.compute_input, statistics.compute_infer)
        assert 0 < sum(part.ns for part in parts) <= statistics.success.ns
        assert abs(statistics.last_inference_ms - time.time() * 1000) < 60_000


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    slots=st.integers(1, 3),
    max_batch_size=st.integers(1, 6),
    max_queue_size=st.sampled_from([3, 10_000]),
)
def test_invariant_1_every_accepted_request_gets_exactly_one_answer_and_its_own_rows(
    seed: int, slots: int, max_batch_size: int, max_queue_size: int
) -> None:
    """Four threads send; callers cancel and expire at random, and some batches fail."""
    engine = ScriptedEngine(
        rows_spec(max_batch_size), slots=slots, before=FailsOn(13, ExecutionError("thirteen"))
    )
    accepted: dict[tuple[int, int], tuple[int, ...]] = {}
    refused: set[tuple[int, int]] = set()
    cancelled: dict[tuple[int, int], Work] = {}

    def send(sender: int) -> None:
        chance = random.Random(seed + sender)
        for number in range(60):
            key = (sender, number)
            values = tuple(chance.choices(range(14), k=chance.randint(1, max_batch_size)))
            timeout_us = chance.choice([0, 0, 1_000, 10_000_000])
            try:
                work = served.infer(key, *values, timeout_us=timeout_us)
            except Overloaded:
                refused.add(key)
                continue
            accepted[key] = values
            what = chance.random()
            if what < 0.1:
                cancelled[key] = work
                served.model.cancel(work)
            elif what < 0.2:
                served.model.expire(work)

    with serving(engine, Limits(max_queue_size=max_queue_size)) as served:
        senders = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(PATIENCE_SECONDS)
        served.model.close(drain=True)
        assert served.worker.join(PATIENCE_SECONDS)
        answers = {key: given for key, given in served.answers.by_key.items() if given}
    assert not refused & answers.keys()
    assert answers.keys() | cancelled.keys() >= accepted.keys()
    for key, given_answers in answers.items():
        (answer,) = given_answers
        check_answer(answer, accepted[key])
    counts = served.model.statistics
    assert counts.success.count == sum(isinstance(given[0], bytes) for given in answers.values())
    assert counts.cancel.count == sum(not cancelled[key].left_late for key in accepted.keys() - answers)


def check_answer(answer: bytes | InferenceError, values: tuple[int, ...]) -> None:
    if isinstance(answer, bytes):
        assert 13 not in values
        assert np.frombuffer(answer, np.int64).tolist() == answered(*values)
    else:
        assert isinstance(answer, EngineFailed | DeadlineMissed)
