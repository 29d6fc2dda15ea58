from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from scripted_engines import PATIENCE_SECONDS, ROWS
from scripted_programs import Responses, Script, ServedProgram, doubled, rows, serving_program, start

from headrace_engines.errors import DeviceError, ExecutionError, InputError
from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_engines.steps import Call, Outcome, SequenceTurn
from headrace_server.core.settings import ControlInput, ModelSettings, SequenceControl, Sequences
from headrace_server.errors import DeviceLost, EngineFailed, InferenceError, InvalidInput

DECOUPLED = ModelSettings(is_decoupled=True)


def refuses(value: int, error: Exception) -> Script:
    """Return a script that answers call by call, and raises at one that holds this element."""

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        for place, call in enumerate(calls):
            if (call.inputs["x"] == value).any():
                raise error
            yield Outcome(place, (2 * call.inputs["x"],), final=True)

    return script


def refuses_at_once(value: int, error: Exception) -> Script:
    """Return a script that raises before it answers any, if a call holds this element."""

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        if any((call.inputs["x"] == value).any() for call in calls):
            raise error
        yield from doubled(calls)

    return script


def in_one_batch(served: ServedProgram, *keys: tuple[object, int]) -> None:
    for key, value in keys:
        served.infer(key, value)
    start(served)


def test_requests_that_wait_are_executed_together_and_each_gets_its_rows() -> None:
    with serving_program(starts=False) as served:
        served.infer("a", 1, 2)
        served.infer("b", 3)
        served.infer("c", 4)
        start(served)
        assert served.answers.rows_of("a") == [2, 4]
        assert (served.answers.rows_of("b"), served.answers.rows_of("c")) == ([6], [8])
        assert served.program.executed == [["a", "b", "c"]]
        figures = served.model.snapshot()
    assert (figures.success.count, figures.inference_count, figures.execution_count) == (3, 4, 1)
    assert figures.responses == {}


def test_the_program_sees_what_came() -> None:
    spec = ModelSpec(
        (
            TensorSpec("x", np.dtype(np.int64), (1,)),
            TensorSpec("mask", np.dtype(np.int64), (ANY,), is_optional=True),
        ),
        ROWS.outputs,
        8,
    )
    seen: list[Call] = []

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        seen.extend(calls)
        return doubled(calls)

    with serving_program(script, spec=spec) as served:
        served.infer("a", 1, 2, temperature=0.5, priority=1, timeout=60_000_000)
        served.answers.wait_for("a")
    (call,) = seen
    assert (call.id, call.rows, list(call.inputs), call.sequence) == ("a", 2, ["x"], None)
    assert call.parameters == {"temperature": 0.5}
    assert call.inputs["x"].tolist() == [[1], [2]]
    assert not call.inputs["x"].flags.writeable


@pytest.mark.parametrize("script", [refuses, refuses_at_once])
@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ExecutionError("13 is unlucky"), EngineFailed, "13 is unlucky (error "),
        (InputError("13 is unlucky"), InvalidInput, "13 is unlucky"),
        (ValueError("13 is secret"), EngineFailed, "model 'm': the engine failed (error "),
    ],
)
def test_invariant_3_a_failure_hits_its_cause_alone(
    script: Callable[[int, Exception], Script],
    error: Exception,
    kind: type[InferenceError],
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving_program(script(13, error), starts=False) as served:
        in_one_batch(served, ("a", 1), ("culprit", 13), ("b", 2))
        told = served.answers.error_of("culprit")
        assert type(told) is kind
        assert text in str(told)
        assert "secret" not in str(told)
        assert (served.answers.rows_of("a"), served.answers.rows_of("b")) == ([2], [4])
        assert served.answers.by_key["a"] == [served.answers.by_key["a"][0]]
    if isinstance(told, EngineFailed):
        assert told.error_id in caplog.text
        assert str(error) in caplog.text
    assert (served.model.statistics.success.count, served.model.statistics.fail.count) == (2, 1)


def test_a_batch_that_fails_after_its_answers_is_not_executed_again(caplog: pytest.LogCaptureFixture) -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield from doubled(calls)
        raise ValueError("too late")

    with serving_program(script, starts=False) as served:
        in_one_batch(served, ("a", 1), ("b", 2))
        assert (served.answers.rows_of("a"), served.answers.rows_of("b")) == ([2], [4])
    assert caplog.messages == ["model m failed after its answers"]
    assert served.program.executed == [["a", "b"]]


@pytest.mark.parametrize("settings", [DECOUPLED, ModelSettings(sequences=Sequences())])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ExecutionError("too hot"), "too hot"),
        (InputError("a's word is secret"), "the engine failed"),
        (ValueError("secret"), "the engine failed"),
    ],
)
def test_where_a_batch_is_not_executed_again_all_that_is_unanswered_fails(
    settings: ModelSettings, error: Exception, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, rows(1), final=True)
        raise error

    with serving_program(script, settings=settings, starts=False) as served:
        sequenced = settings.sequences is not None
        for number, key in enumerate("abc", start=1):
            served.infer(key, 1, **({"sequence_id": number, "sequence_start": True} if sequenced else {}))
        start(served)
        assert served.answers.rows_of("a") == [1]
        for key in "bc":
            told = served.answers.error_of(key)
            assert type(told) is EngineFailed
            assert text in str(told)
        assert served.program.executed == [["a", "b", "c"]]
    assert str(error) in caplog.text


def test_a_refusal_of_the_only_request_left_is_told_to_it() -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, rows(1), final=True)
        raise InputError("b is too long")

    with serving_program(script, settings=DECOUPLED, starts=False) as served:
        in_one_batch(served, ("a", 1), ("b", 1))
        assert str(served.answers.error_of("b")) == "b is too long"


def test_an_outcome_may_be_an_error_of_its_own_request() -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        for place in range(len(calls)):
            yield Outcome(place, InputError("odd") if place else rows(1), final=True)

    with serving_program(script, starts=False) as served:
        in_one_batch(served, ("a", 1), ("b", 1))
        assert served.answers.rows_of("a") == [1]
        assert str(served.answers.error_of("b")) == "odd"
        assert served.program.executed == [["a", "b"]]


def test_a_program_that_ends_too_early_is_told() -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        return iter(())

    with serving_program(script) as served:
        served.infer("a", 1)
        assert "ended without an answer" in str(served.answers.error_of("a"))


def test_what_a_program_raises_after_its_answers_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, rows(1), final=True)
        raise ValueError("too late")

    with serving_program(script) as served:
        served.infer("a", 1)
        assert served.answers.rows_of("a") == [1]
    assert "too late" in caplog.text


def test_a_lost_device_answers_what_was_taken_and_what_waits() -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, rows(1), final=True)
        raise DeviceError("Xid 79")

    spec = ModelSpec(ROWS.inputs, ROWS.outputs, 2)
    with serving_program(script, spec=spec, starts=False) as served:
        in_one_batch(served, ("a", 1), ("b", 1), ("c", 1))
        assert served.answers.rows_of("a") == [1]
        for key in "bc":
            assert isinstance(served.answers.error_of(key), DeviceLost)
        served.program.closed.wait(PATIENCE_SECONDS)
    assert served.losses == ["Xid 79"]


def test_an_answer_that_cannot_be_encoded_hits_one_caller() -> None:
    sink = Responses(fails_to_encode=lambda work: work.id == "bad")
    with serving_program(starts=False) as served:
        for key in ("a", "bad", "b"):
            served.infer(key, 1, sink=sink)
        start(served)
        assert (sink.rows_of("a"), sink.rows_of("b")) == ([2], [2])
        assert "could not be encoded" in str(sink.error_of("bad"))


def test_only_the_outputs_that_were_asked_for_are_encoded() -> None:
    spec = ModelSpec(ROWS.inputs, (*ROWS.outputs, TensorSpec("z", np.dtype(np.int64), (1,))), 8)

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, (*rows(1), *rows(2)), final=True)

    with serving_program(script, spec=spec, starts=False) as served:
        work = served.infer("a", 1)
        work.wanted = (1,)
        start(served)
        assert served.answers.rows_of("a") == [2]


SEQUENCED = ModelSettings(
    sequences=Sequences(
        controls=(
            ControlInput("START", SequenceControl.START, "INT32"),
            ControlInput("ID", SequenceControl.CORRID, "INT64"),
        )
    ),
)


def test_the_program_sees_the_turn_and_the_control_inputs() -> None:
    seen: list[tuple[SequenceTurn | None, int, int]] = []

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        seen.extend((c.sequence, c.inputs["START"].item(), c.inputs["ID"].item()) for c in calls)
        return doubled(calls)

    with serving_program(script, settings=SEQUENCED) as served:
        served.infer("a", 1, sequence_id=7, sequence_start=True)
        served.infer("b", 1, sequence_id=7, sequence_end=True)
        served.answers.wait_for("a", "b")
    assert seen == [
        (SequenceTurn(7, start=True, end=False, slot=0), 1, 7),
        (SequenceTurn(7, start=False, end=True, slot=0), 0, 7),
    ]


def test_a_sequence_goes_on_after_a_failure() -> None:
    with serving_program(refuses(13, ValueError("13")), settings=SEQUENCED) as served:
        served.infer("a", 13, sequence_id=7, sequence_start=True)
        served.infer("b", 1, sequence_id=7)
        assert isinstance(served.answers.error_of("a"), EngineFailed)
        assert served.answers.rows_of("b") == [2]


def test_a_first_request_that_is_cancelled_takes_those_behind_it_along() -> None:
    with serving_program(settings=SEQUENCED, starts=False) as served:
        first = served.infer("a", 1, sequence_id=7, sequence_start=True)
        served.infer("b", 1, sequence_id=7)
        served.model.cancel(first)
        assert "given up before it was executed" in str(served.answers.error_of("b"))
        start(served)
        served.infer("c", 1, sequence_id=7, sequence_start=True)
        assert served.answers.rows_of("c") == [2]


def test_each_sequence_stays_on_its_instance() -> None:
    places: dict[int, set[str]] = {}
    lock = threading.Lock()

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        with lock:
            for call in calls:
                assert call.sequence is not None
                places.setdefault(int(call.sequence.id), set()).add(threading.current_thread().name)
        return doubled(calls)

    spec = ModelSpec(ROWS.inputs, ROWS.outputs, 2)
    settings = ModelSettings(instances=2, sequences=Sequences())
    with serving_program(script, spec=spec, settings=settings) as served:
        for turn in range(5):
            for number in range(1, 8):
                key = (turn, number)
                served.infer(key, 1, sequence_id=number, sequence_start=turn == 0, sequence_end=turn == 4)
        served.answers.wait_for(*((turn, number) for turn in range(5) for number in range(1, 8)))
    assert all(len(instances) == 1 for instances in places.values())
    assert {name for names in places.values() for name in names} == {"engine-m-1-0", "engine-m-1-1"}
