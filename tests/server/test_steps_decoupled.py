from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from scripted_engines import PATIENCE_SECONDS, Gate
from scripted_programs import Responses, ServedProgram, rows, serving_program, start

from headrace_engines.steps import Call, Outcome
from headrace_server.core.request import Work
from headrace_server.core.settings import ModelSettings
from headrace_server.core.statistics import FailReason
from headrace_server.core.steps_batch import Patience
from headrace_server.core.window import MAX_PARTS
from headrace_server.errors import Unread

DECOUPLED = ModelSettings(is_decoupled=True)
FOR_EVER_ALONE = Patience(seconds=3600, seconds_beside_others=0.01)


def counted(calls: Sequence[Call]) -> Iterator[Outcome]:
    """Give each call as many responses as its element says, and no outputs with the last."""
    for place, call in enumerate(calls):
        for number in range(int(call.inputs["x"][0, 0])):
            yield Outcome(place, rows(number), final=False)
        yield Outcome(place, None, final=True)


def endless(calls: Sequence[Call]) -> Iterator[Outcome]:
    while True:
        for place in range(len(calls)):
            yield Outcome(place, rows(1), final=False)


def in_one_batch(served: ServedProgram, *keys: tuple[object, int]) -> None:
    for key, value in keys:
        served.infer(key, value)
    start(served)


def test_each_request_gets_its_responses_and_an_end() -> None:
    with serving_program(counted, settings=DECOUPLED, starts=False) as served:
        in_one_batch(served, ("none", 0), ("one", 1), ("three", 3))
        assert served.answers.wait_for("none", "one", "three") == [b"", b"", b""]
        assert served.answers.wait_for_parts("one", 1) == [[0]]
        assert served.answers.wait_for_parts("three", 3) == [[0], [1], [2]]
        assert "none" not in served.answers.parts


def test_responses_leave_while_the_program_goes_on() -> None:
    gate = Gate()

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, rows(1), final=False)
        yield Outcome(1, rows(2), final=True)
        gate(())
        yield Outcome(0, rows(3), final=True)

    with serving_program(script, settings=DECOUPLED, starts=False) as served:
        in_one_batch(served, ("a", 1), ("b", 1))
        assert served.answers.wait_for_parts("a", 1) == [[1]]
        assert served.answers.rows_of("b") == [2]
        gate.open()
        assert served.answers.rows_of("a") == [3]
        figures = served.model.snapshot()
    assert (figures.success.count, figures.execution_count, figures.inference_count) == (2, 1, 2)


def test_the_figures_add_up() -> None:
    with serving_program(counted, settings=DECOUPLED, starts=False) as served:
        in_one_batch(served, ("a", 2), ("b", 100), ("c", 0))
        served.answers.wait_for("a", "b", "c")
        served.model.close(drain=True)
        assert served.workers[0].join(PATIENCE_SECONDS)
        figures = served.model.snapshot()
    compute_ns = figures.compute_input.ns + figures.compute_infer.ns + figures.compute_output.ns
    assert figures.success.ns == figures.queue.ns + compute_ns
    assert (figures.success.count, figures.execution_count, figures.inference_count) == (3, 1, 3)
    assert list(figures.by_batch_size) == [3]
    responses = figures.responses
    assert set(responses) == {*map(str, range(64)), "64+"}
    assert [responses[key].success.count for key in ("0", "1", "2", "64+")] == [2, 2, 1, 36]
    assert [responses[key].empty_response.count for key in ("0", "2", "64+")] == [1, 1, 1]
    one = responses["0"]
    assert one.success.ns == one.compute_infer.ns + one.compute_output.ns


def test_a_response_that_cannot_be_encoded_ends_its_request_alone() -> None:
    sink = Responses(fails_to_encode=lambda work: work.id == "bad")
    with serving_program(counted, settings=DECOUPLED, starts=False) as served:
        served.infer("bad", 2, sink=sink)
        served.infer("good", 2, sink=sink)
        start(served)
        assert "could not be encoded" in str(sink.error_of("bad"))
        assert sink.wait_for("good") == [b""]
        assert len(sink.by_key["bad"]) == 1
        assert served.model.snapshot().responses["0"].fail.count == 1


def test_a_program_waits_for_a_caller_who_reads_slowly() -> None:
    sink = Responses(reads=False)
    with serving_program(endless, settings=DECOUPLED) as served:
        work = served.infer("a", 1, sink=sink)
        sink.wait_for_parts("a", MAX_PARTS)
        assert work.window is not None
        assert not work.window.admit(1, 0.05)
        assert len(sink.parts["a"]) == MAX_PARTS
        work.window.written(8)
        sink.wait_for_parts("a", MAX_PARTS + 1)
        served.model.cancel(work)
        assert served.program.ended.wait(PATIENCE_SECONDS)


def test_a_caller_who_reads_nothing_for_too_long_is_given_up() -> None:
    idle = Responses(reads=False)

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        for _ in range(MAX_PARTS + 10):
            yield Outcome(0, rows(1), final=False)
        yield Outcome(1, rows(2), final=True)

    with serving_program(script, settings=DECOUPLED, starts=False, patience=FOR_EVER_ALONE) as served:
        served.infer("idle", 1, sink=idle)
        served.infer("b", 1)
        start(served)
        assert isinstance(idle.error_of("idle"), Unread)
        assert served.answers.rows_of("b") == [2]
    assert len(idle.parts["idle"]) == MAX_PARTS
    assert served.model.statistics.failures[FailReason.REJECTED] == 1


def test_a_caller_who_reads_nothing_is_given_up_once_another_waits() -> None:
    idle = Responses(reads=False)
    with serving_program(endless, settings=DECOUPLED, patience=FOR_EVER_ALONE) as served:
        served.infer("idle", 1, sink=idle)
        idle.wait_for_parts("idle", MAX_PARTS)
        assert not idle.by_key["idle"]
        another = served.infer("b", 1)
        assert isinstance(idle.error_of("idle"), Unread)
        served.answers.wait_for_parts("b", MAX_PARTS + 1)
        served.model.cancel(another)


def test_a_program_that_waits_for_a_caller_goes_on_when_that_caller_leaves() -> None:
    idle = Responses(reads=False)
    with serving_program(endless, settings=DECOUPLED, patience=FOR_EVER_ALONE) as served:
        work = served.infer("idle", 1, sink=idle)
        idle.wait_for_parts("idle", MAX_PARTS)
        served.model.cancel(work)
        assert served.program.ended.wait(PATIENCE_SECONDS)


def test_an_endless_program_is_not_listened_to_when_its_only_caller_was_given_up() -> None:
    idle = Responses(reads=False)
    with serving_program(endless, settings=DECOUPLED, patience=Patience(0.05, 0.01)) as served:
        served.infer("idle", 1, sink=idle)
        assert isinstance(idle.error_of("idle"), Unread)
        assert served.program.ended.wait(PATIENCE_SECONDS)


def test_an_endless_program_is_not_listened_to_when_its_only_response_cannot_be_encoded() -> None:
    sink = Responses(fails_to_encode=lambda work: True)
    with serving_program(endless, settings=DECOUPLED) as served:
        served.infer("bad", 1, sink=sink)
        assert "could not be encoded" in str(sink.error_of("bad"))
        assert served.program.ended.wait(PATIENCE_SECONDS)


def test_an_endless_program_is_not_listened_to_when_its_only_caller_has_gone() -> None:
    with serving_program(endless, settings=DECOUPLED) as served:
        work = served.infer("a", 1)
        served.answers.wait_for_parts("a", 1)
        served.model.cancel(work)
        assert served.program.ended.wait(PATIENCE_SECONDS)


def test_a_program_may_tidy_up_after_its_last_response() -> None:
    tidied: list[bool] = []

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, rows(1), final=True)
        tidied.append(True)

    with serving_program(script, settings=DECOUPLED) as served:
        served.infer("a", 1)
        assert served.answers.rows_of("a") == [1]
    assert tidied == [True]


def test_a_program_is_not_listened_to_when_all_callers_have_gone() -> None:
    with serving_program(endless, settings=DECOUPLED, starts=False) as served:
        works = [served.infer(key, 1) for key in "ab"]
        start(served)
        served.answers.wait_for_parts("b", 1)
        served.model.cancel(works[0])
        came = len(served.answers.parts["b"])
        served.answers.wait_for_parts("b", came + 5)
        assert not served.program.ended.is_set()
        served.model.cancel(works[1])
        assert served.program.ended.wait(PATIENCE_SECONDS)
        served.model.close(drain=True)
        assert served.workers[0].join(PATIENCE_SECONDS)
    assert served.model.statistics.cancel.count == 2
    assert not any(served.answers.by_key.values())


def test_a_transport_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Responses):
        def deliver_part(self, work: Work, answer: bytes) -> None:
            raise ConnectionError("gone")

    with serving_program(counted, settings=DECOUPLED, starts=False) as served:
        served.infer("lost", 2, sink=Broken())
        served.infer("a", 2)
        start(served)
        assert served.answers.wait_for("a") == [b""]
    assert "did not take a response" in caplog.text
