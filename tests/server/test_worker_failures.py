"""What fails or leaves, and whom it costs: the worker under failing engines, devices, sinks and callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scripted_engines import (
    PATIENCE_SECONDS,
    RAGGED,
    ROWS,
    Answers,
    Arrays,
    FailsOn,
    Gate,
    ScriptedEngine,
    Served,
    answered,
    rows_spec,
    serving,
)
from works import work_of

from headrace_engines.errors import DeviceError, ExecutionError, MemoryExhausted
from headrace_engines.spec import ModelSpec
from headrace_server.core.model import Limits
from headrace_server.errors import (
    DeviceLost,
    EngineFailed,
)


class GateThenFails(Gate):
    """A gate behind which a batch with this element fails."""

    def __init__(self, value: int, error: Exception) -> None:
        super().__init__()
        self._fails = FailsOn(value, error)

    def __call__(self, inputs: Arrays) -> None:
        super().__call__(inputs)
        self._fails(inputs)


def test_invariant_3_an_engine_failure_hits_its_cause_alone_and_the_next_batch_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = GateThenFails(13, ExecutionError("index 13 is out of bounds"))
    with serving(ScriptedEngine(rows_spec(2), before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        for key, value in (("neighbour", 1), ("culprit", 13), ("next", 2), ("after", 3)):
            served.infer(key, value)
        gate.open()
        error = served.answers.error_of("culprit")
        assert isinstance(error, EngineFailed)
        assert "index 13 is out of bounds" in str(error)
        assert served.answers.rows_of("neighbour") == answered(1)
        assert served.answers.rows_of("next") == answered(2)
        assert served.answers.rows_of("after") == answered(3)
        assert served.model.lost is None
        assert (served.model.statistics.fail.count, served.model.statistics.success.count) == (1, 4)
    assert error.error_id in caplog.text


class AnswersOneRowMore(ScriptedEngine):
    def run(self, arrays: Sequence[NDArray[Any]]) -> Arrays:
        return tuple(np.concatenate([output, output[:1]]) for output in super().run(arrays))


@pytest.mark.parametrize("spec", [ROWS, RAGGED], ids=["staged", "ragged"])
def test_invariant_1_an_engine_that_answers_another_number_of_rows_is_not_believed(spec: ModelSpec) -> None:
    with serving(AnswersOneRowMore(spec)) as served:
        served.infer("a", 1)
        assert "answered 2 rows to 1" in str(served.answers.error_of("a"))


def test_the_text_of_an_unknown_exception_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(ScriptedEngine(before=FailsOn(13, RuntimeError("password=hunter2")))) as served:
        served.infer("a", 13)
        error = served.answers.error_of("a")
        assert isinstance(error, EngineFailed)
        assert "hunter2" not in str(error)
        assert error.error_id in str(error)
    assert "hunter2" in caplog.text
    assert error.error_id in caplog.text


def test_invariant_3_an_answer_that_cannot_be_encoded_hits_one_caller() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        sink = Answers(fails_to_encode=lambda work: work.id == "bad")
        served.infer("first", 0, sink=sink)
        gate.arrival()
        for key, value in (("a", 1), ("bad", 2), ("b", 3)):
            served.infer(key, value, sink=sink)
        gate.open()
        assert sink.rows_of("a") == answered(1)
        assert sink.rows_of("b") == answered(3)
        error = sink.error_of("bad")
        assert isinstance(error, EngineFailed)
        assert "cannot encode bad" not in str(error)


class BrokenSink(Answers):
    """A transport whose end has gone."""

    def deliver(self, answers: object) -> None:
        raise ConnectionError("gone")


def test_invariant_3_a_sink_that_raises_costs_the_others_nothing() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("a", 1)
        served.infer("lost", 2, sink=BrokenSink())
        served.infer("b", 3)
        gate.open()
        assert served.answers.rows_of("a") == answered(1)
        assert served.answers.rows_of("b") == answered(3)
        served.infer("next", 4)
        assert served.answers.rows_of("next") == answered(4)


@pytest.mark.parametrize("slots", [1, 2])
def test_invariant_8_a_lost_device_answers_everything_and_the_model_says_so(slots: int) -> None:
    gate = GateThenFails(13, DeviceError("Xid 79"))
    engine = ScriptedEngine(rows_spec(1), slots=slots, before=gate)
    served = Served(engine, Limits())
    keys = ("culprit", "waiting", "also waiting", "last")
    for key in keys:
        served.infer(key, 13)
    served.worker.start()
    gate.arrival()
    gate.open()
    for key in keys:
        error = served.answers.error_of(key)
        assert isinstance(error, DeviceLost)
        assert "Xid 79" in str(error)
    assert served.worker.join(PATIENCE_SECONDS)
    assert engine.closed.is_set()
    assert served.losses == ["Xid 79"]
    assert not served.service.is_ready()
    assert not served.service.is_model_ready("m", "")
    with pytest.raises(DeviceLost, match="Xid 79"):
        served.infer("too late", 1)
    assert all(len(served.answers.by_key[key]) == 1 for key in keys)


class CannotTakeRows(ScriptedEngine):
    """Fails where rows are handed over, before anything is computed."""

    def __init__(self, slots: int, error: Exception) -> None:
        super().__init__(rows_spec(1), slots=slots)
        self._error = error

    def submit(self, slot: int, rows: int) -> None:
        if self.inputs(slot)[0][0, 0] == 13:
            raise self._error
        super().submit(slot, rows)


def test_invariant_8_a_device_that_is_lost_while_rows_are_handed_over_answers_everything() -> None:
    served = Served(CannotTakeRows(2, DeviceError("Xid 79")), Limits())
    for key, value in enumerate((1, 13, 2)):
        served.infer(key, value)
    served.worker.start()
    assert served.worker.join(PATIENCE_SECONDS)
    assert all(isinstance(served.answers.error_of(key), DeviceLost) for key in range(3))
    assert served.losses == ["Xid 79"]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_batch_that_cannot_be_submitted_fails_alone(slots: int) -> None:
    engine = CannotTakeRows(slots, ExecutionError("no memory"))
    with serving(engine) as served:
        for key, value in enumerate((1, 13, 2, 13, 3)):
            served.infer(key, value)
        for key in (1, 3):
            assert isinstance(served.answers.error_of(key), EngineFailed)
        for key, value in ((0, 1), (2, 2), (4, 3)):
            assert served.answers.rows_of(key) == answered(value)


def test_invariant_8_a_device_that_is_lost_while_a_failed_batch_is_separated_answers_everything() -> None:
    def before(inputs: Arrays) -> None:
        if len(inputs[0]) > 1:
            raise ExecutionError("not all of these")
        if inputs[0][0, 0] == 13:
            raise DeviceError("Xid 79")

    served = Served(ScriptedEngine(before=before), Limits())
    for key, value in enumerate((1, 13, 2)):
        served.infer(key, value)
    served.worker.start()
    assert served.worker.join(PATIENCE_SECONDS)
    assert served.answers.rows_of(0) == answered(1)
    assert all(isinstance(served.answers.error_of(key), DeviceLost) for key in (1, 2))
    assert served.losses == ["Xid 79"]


def test_a_batch_that_memory_does_not_suffice_for_is_halved_and_what_is_too_large_alone_fails() -> None:
    batches: list[int] = []

    def before(inputs: Arrays) -> None:
        batches.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise MemoryExhausted("2 rows fit")

    served = Served(ScriptedEngine(before=before), Limits())
    requests = ((1,), (2,), (3, 4, 5), (6,), (7,), (8,))
    for key, values in enumerate(requests):
        served.infer(key, *values)
    served.worker.start()
    served.model.close(drain=True)
    assert served.worker.join(PATIENCE_SECONDS)
    assert "2 rows fit" in str(served.answers.error_of(2))
    for key, values in enumerate(requests):
        if key != 2:
            assert served.answers.rows_of(key) == answered(*values)
    assert batches == [8, 5, 2, 3, 3, 1, 2]
    assert served.model.snapshot().memory_exhausted == 3


def test_invariant_3_a_request_that_no_array_can_be_made_of_costs_neither_its_neighbours_nor_the_model() -> (
    None
):
    gate = Gate()
    with serving(ScriptedEngine(RAGGED, before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("a", 1)
        served.model.submit(
            work_of(served.model, served.answers, size_bytes=7, shapes=((1, 1),), reply="culprit")
        )
        served.infer("b", 2)
        gate.open()
        assert isinstance(served.answers.error_of("culprit"), EngineFailed)
        assert served.answers.rows_of("a") == answered(1)
        assert served.answers.rows_of("b") == answered(2)
        assert served.model.lost is None


@pytest.mark.parametrize("spec", [ROWS, RAGGED], ids=["staged", "ragged"])
def test_invariant_3_work_cancelled_in_execution_is_not_encoded_and_its_neighbours_get_their_rows(
    spec: ModelSpec,
) -> None:
    gate = Gate()
    encoded: list[str] = []
    sink = Answers(fails_to_encode=lambda work: encoded.append(work.id) or False)  # type: ignore[func-returns-value]  # it only listens
    with serving(ScriptedEngine(spec, before=gate)) as served:
        served.infer("first", 0, sink=sink)
        gate.arrival()
        _, gone, _ = (served.infer(key, value, sink=sink) for key, value in (("a", 1), ("gone", 2), ("b", 3)))
        gate.let_one_through()
        gate.arrival()
        served.model.cancel(gone)
        gate.open()
        assert [sink.rows_of(key) for key in ("first", "a", "b")] == [[1], answered(1), answered(3)]
        served.model.close(drain=True)
        assert served.worker.join(PATIENCE_SECONDS)
    assert encoded == ["first", "a", "b"]
    assert not sink.by_key["gone"]
    assert (served.model.statistics.success.count, served.model.statistics.cancel.count) == (3, 1)
