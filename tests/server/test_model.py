from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from scripted_engines import PATIENCE_SECONDS, ROWS, Answers
from works import work_of

from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_engines.steps import SequenceTurn
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, State, Work
from headrace_server.core.settings import ModelSettings, Sequences
from headrace_server.core.statistics import Execution, FailReason
from headrace_server.errors import DeadlineMissed, DeviceLost, InvalidInput, Overloaded, ShuttingDown

INSTANCES = 3


def model_of(
    settings: ModelSettings | None = None, *, max_queue_size: int = 100, spec: ModelSpec = ROWS
) -> Model:
    limits = Limits(max_queue_size=max_queue_size)
    return Model("m", "1", spec, "scripted", limits, settings=settings or ModelSettings())


def submitted(model: Model, sink: Answers, name: str = "", *, hold: bool = False, **how: object) -> Work:
    work = work_of(model, sink, name, queued_ns=time.monotonic_ns(), reply=name, **how)  # type: ignore[arg-type]  # as work_of takes it
    model.submit(work, hold=hold)
    return work


class Takers:
    """One thread for each instance, which takes and waits until there is nothing more."""

    def __init__(self, model: Model) -> None:
        self.taken: queue.Queue[tuple[int, list[str]]] = queue.Queue()
        self._model = model
        self.threads = [threading.Thread(target=self._take, args=(number,)) for number in range(INSTANCES)]
        for thread in self.threads:
            thread.start()

    def _take(self, instance: int) -> None:
        while (works := self._model.take(wait=True, instance=instance)) is not None:
            now_ns = time.monotonic_ns()
            execution = Execution(len(works), now_ns, now_ns, now_ns, now_ns)
            self._model.executed([(work, b"") for work in works], execution)
            self._model.finished(works)
            self.taken.put((instance, [work.id for work in works]))

    def next(self) -> list[str]:
        return self.taken.get(timeout=PATIENCE_SECONDS)[1]

    def have_ended(self) -> bool:
        for thread in self.threads:
            thread.join(PATIENCE_SECONDS)
        return not any(thread.is_alive() for thread in self.threads)


@contextmanager
def taking(model: Model) -> Iterator[Takers]:
    takers = Takers(model)
    try:
        yield takers
    finally:
        model.close(drain=False)
        assert takers.have_ended(), "an instance still waits"


def test_what_is_held_waits_for_its_release() -> None:
    model, sink = model_of(), Answers()
    work = submitted(model, sink, hold=True)
    assert model.take(wait=False) == []
    model.release()
    assert model.take(wait=False) == [work]


def test_one_of_the_instances_that_wait_takes_each_batch() -> None:
    model, sink = model_of(), Answers()
    with taking(model) as takers:
        for number in range(50):
            submitted(model, sink, f"{number}")
            assert takers.next() == [f"{number}"]


def test_instances_that_wait_share_what_is_released_at_once() -> None:
    spec = ModelSpec(ROWS.inputs, ROWS.outputs, 1)
    model, sink = model_of(spec=spec), Answers()
    with taking(model) as takers:
        for number in range(40):
            submitted(model, sink, f"{number}", hold=True)
        model.release()
        assert sorted(itertools.chain(*(takers.next() for _ in range(40)))) == sorted(map(str, range(40)))


def test_work_of_a_sequence_wakes_the_instance_that_has_it() -> None:
    model, sink = model_of(ModelSettings(instances=INSTANCES, sequences=Sequences())), Answers()
    with taking(model) as takers:
        for step in range(5):
            for number in range(1, 7):
                turn = SequenceTurn(number, step == 0, step == 4)
                submitted(model, sink, f"{number}.{step}", sequence=turn)
        sink.wait_for(*(f"{number}.{step}" for number in range(1, 7) for step in range(5)))
        assert takers.taken.qsize() > 0


def test_a_batch_that_may_grow_is_taken_when_it_is_due() -> None:
    model, sink = model_of(ModelSettings(max_queue_delay_us=30_000)), Answers()
    with taking(model) as takers:
        submitted(model, sink, "a")
        submitted(model, sink, "b")
        assert takers.next() == ["a", "b"]


def test_what_missed_its_deadline_is_answered_by_whoever_asks_for_work() -> None:
    model, sink = model_of(), Answers()
    submitted(model, sink, "late", deadline=time.monotonic() - 1)
    assert model.take(wait=False) == []
    assert isinstance(sink.error_of("late"), DeadlineMissed)


@pytest.mark.parametrize("loses_a_start", [Model.cancel, Model.expire])
def test_what_depends_on_a_start_that_is_lost_is_refused(loses_a_start: object) -> None:
    model, sink = model_of(ModelSettings(sequences=Sequences())), Answers()
    start = submitted(model, sink, "start", sequence=SequenceTurn(1, start=True, end=False))
    submitted(model, sink, "next", sequence=SequenceTurn(1, start=False, end=False))
    loses_a_start(model, start)  # type: ignore[operator]  # a method of Model
    assert isinstance(sink.error_of("next"), InvalidInput)
    assert model.take(wait=False) == []


def test_an_instance_ends_when_what_it_waited_for_another_to_execute_is_given_up() -> None:
    model, sink = model_of(ModelSettings(instances=2, sequences=Sequences())), Answers()
    start = submitted(model, sink, "start", sequence=SequenceTurn(1, start=True, end=False))
    assert model.take(wait=False, instance=0) == [start]
    waits = submitted(model, sink, "waits", sequence=SequenceTurn(1, start=False, end=False))
    ended: queue.Queue[list[Work] | None] = queue.Queue()
    thread = threading.Thread(target=lambda: ended.put(model.take(wait=True, instance=1)))
    thread.start()
    model.close(drain=True)
    model.cancel(waits)
    assert ended.get(timeout=PATIENCE_SECONDS) is None
    thread.join()


def test_closing_ends_every_instance_that_waits() -> None:
    model = model_of()
    with taking(model) as takers:
        model.close(drain=True)
        assert takers.have_ended()


def test_a_model_whose_instances_are_lost_one_after_the_other_says_why_once() -> None:
    losses: list[str | None] = []
    sink = Answers()
    model = Model("m", "1", ROWS, "scripted", Limits(), lambda: losses.append(model.lost))
    submitted(model, sink, "taken")
    in_hand = model.take(wait=False)
    assert in_hand is not None
    submitted(model, sink, "waits")
    model.lose("the first", [])
    assert isinstance(sink.error_of("waits"), DeviceLost)
    assert not sink.by_key["taken"], "another instance has it in hand"
    model.lose("the second", in_hand)
    assert "the second" in str(sink.error_of("taken"))
    assert losses == ["the first"]
    assert model.take(wait=True) is None
    with pytest.raises(DeviceLost, match="model 'm': the first"):
        submitted(model, sink, "after")


def test_a_full_queue_and_a_closed_model_refuse_and_only_one_of_them_counts() -> None:
    model, sink = model_of(max_queue_size=1), Answers()
    submitted(model, sink, "a")
    with pytest.raises(
        Overloaded, match="model 'm': queue full: 1 requests wait, which is the limit"
    ) as full:
        submitted(model, sink, "b")
    assert full.value.retry_after_seconds > 0
    assert model.snapshot().fail.count == 1
    model.close(drain=True)
    with pytest.raises(ShuttingDown, match="model 'm' is being closed"):
        submitted(model, sink, "c")
    assert model.snapshot().fail.count == 1


def test_a_caller_who_leaves_after_the_work_was_taken_is_noted_and_counted_when_it_is_dropped() -> None:
    model, sink = model_of(), Answers()
    work = submitted(model, sink, "a")
    assert model.take(wait=False) == [work]
    model.cancel(work)
    assert (work.abandoned, work.state) == (True, State.TAKEN)
    assert model.snapshot().cancel.count == 0
    model.drop([work])
    assert (model.snapshot().cancel.count, work.state, work.data) == (1, State.ENDED, ())
    assert not sink.by_key["a"]


@pytest.mark.parametrize(
    ("waited_seconds", "left_seconds", "reason"),
    [
        pytest.param(5, -1, FailReason.REJECTED, id="passed"),
        pytest.param(20, 0.2, FailReason.REJECTED, id="the caller's clock is ahead"),
        pytest.param(0.1, 3600, FailReason.CANCELED, id="far away"),
        pytest.param(5, NO_DEADLINE, FailReason.CANCELED, id="none"),
    ],
)
@pytest.mark.parametrize("is_taken", [False, True], ids=["waits", "executed"])
def test_a_caller_who_leaves_at_the_deadline_has_missed_it(
    waited_seconds: float, left_seconds: float, reason: FailReason, *, is_taken: bool
) -> None:
    model, sink = model_of(), Answers()
    work = submitted(model, sink, "a")
    assert not is_taken or model.take(wait=False) == [work]
    work.deadline = time.monotonic() + left_seconds
    work.queued_ns = time.monotonic_ns() - int(waited_seconds * 1e9)
    model.cancel(work)
    if is_taken:
        work.deadline = 0.0  # what counts is when the caller left
        model.drop([work])
    figures = model.snapshot()
    assert [(other, count) for other, count in figures.failures.items() if count] == [(reason, 1)]
    assert (figures.fail.count, figures.cancel.count) == ((1, 0) if reason is FailReason.REJECTED else (0, 1))
    assert not sink.by_key["a"]


def test_answers_keep_the_order_of_their_requests_though_one_is_dropped() -> None:
    model, sink = model_of(ModelSettings(preserve_ordering=True)), Answers()
    first, second, third = (submitted(model, sink, name) for name in "abc")
    model.take(wait=False)
    execution = Execution(1, *[time.monotonic_ns()] * 4)
    model.executed([(third, b"")], execution)
    model.executed([(first, b"")], execution)
    assert [key for key, answers in sink.by_key.items() if answers] == ["a"]
    model.drop([second])
    assert [key for key, answers in sink.by_key.items() if answers] == ["a", "c"]


def test_a_tracer_hears_of_each_execution_and_costs_nothing_when_it_is_gone() -> None:
    class Heard:
        def __init__(self) -> None:
            self.ids: list[str] = []

        def executed(self, works: Sequence[Work], execution: Execution) -> None:
            self.ids += [work.id for work in works]

    model, sink, heard = model_of(), Answers(), Heard()
    execution = Execution(1, *[time.monotonic_ns()] * 4)
    for name, tracer in (("a", heard), ("b", None)):
        model.tracer = tracer
        work = submitted(model, sink, name)
        model.take(wait=False)
        model.executed([(work, b"")], execution)
    assert heard.ids == ["a"]


def test_what_callers_are_told_of_a_model() -> None:
    spec = ModelSpec(ROWS.inputs, (*ROWS.outputs, TensorSpec("s", ROWS.outputs[0].dtype, (2, -1))), 8)
    one, other = (
        Model("m", "3", spec, "scripted", Limits(), config=b"config", memory_bytes=12) for _ in range(2)
    )
    assert (one.facts.name, one.facts.version, one.facts.config) == ("m", "3", b"config")
    assert one.facts.answer_row_bytes == 8, "of the output whose size is fixed"
    assert one.facts.serial != other.facts.serial
    assert one.memory_bytes == 12
