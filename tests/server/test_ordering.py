from __future__ import annotations

import threading
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engines import PATIENCE_SECONDS, ROWS, Answers
from works import work_of

from headrace_server.core.model import Limits, Model
from headrace_server.core.ordering import Ordering
from headrace_server.core.request import State, Work
from headrace_server.errors import DeadlineMissed, InferenceError

MODEL = Model("m", "1", ROWS, "scripted", Limits())


class Line(Answers):
    """A sink that remembers in which order answers came."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        self.order += [work.id for work, _ in answers]


def line_of(names: str, sink: Answers) -> tuple[Ordering, dict[str, Work]]:
    ordering = Ordering()
    works = {name: work_of(MODEL, sink, name) for name in names}
    for work in works.values():
        ordering.expect(work)
    return ordering, works


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (["a", "b", "c"], ["a", "ab", "abc"]),
        (["c", "b", "a"], ["", "", "abc"]),
        (["bc", "a"], ["", "abc"]),
        (["b", "-a", "c"], ["", "b", "bc"]),
        (["-b", "c", "a"], ["", "", "ac"]),
        (["-c", "-a", "-b"], ["", "", ""]),
    ],
)
def test_an_answer_waits_for_those_before_it_and_not_for_callers_who_left(
    events: list[str], told: list[str]
) -> None:
    sink = Line()
    ordering, works = line_of("abc", sink)
    for event, expected in zip(events, told, strict=True):
        if event.startswith("-"):
            ordering.leave([works[event[1]]])
        else:
            ordering.deliver([(works[name], b"") for name in event])
        assert "".join(sink.order) == expected


def test_errors_keep_their_place_as_well() -> None:
    sink = Answers()
    ordering, works = line_of("ab", sink)
    missed = DeadlineMissed("too late")
    ordering.deliver([(works["b"], missed)])
    assert works["b"].data == (), "what has its answer lets go of its tensors, however long it waits"
    assert works["b"].state is State.QUEUED
    ordering.deliver([(works["a"], b"rows")])
    assert {work.state for work in works.values()} == {State.ENDED}


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_any_order_of_answers_leaves_in_the_order_of_requests(random: Random, count: int) -> None:
    sink = Line()
    names = [chr(ord("a") + number) for number in range(count)]
    ordering, works = line_of("".join(names), sink)
    left = {name for name in names if random.random() < 0.2}
    for name in random.sample(names, count):
        if name in left:
            ordering.leave([works[name]])
        else:
            ordering.deliver([(works[name], b"")])
    assert sink.order == [name for name in names if name not in left]


def test_several_threads_hand_out_in_one_order() -> None:
    sink = Line()
    names = [f"{number}" for number in range(400)]
    ordering = Ordering()
    works = [work_of(MODEL, sink, name) for name in names]
    for work in works:
        ordering.expect(work)

    def answer(start: int) -> None:
        for work in works[start::4]:
            ordering.deliver([(work, b"")])

    threads = [threading.Thread(target=answer, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sink.order == names


def test_a_sink_that_answers_while_it_is_handed_to_does_not_lock_itself_out() -> None:
    class Answering(Line):
        def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
            super().deliver(answers)
            if len(self.order) == 1:
                ordering.deliver([(works["b"], b"")])

    sink = Answering()
    ordering, works = line_of("ab", sink)
    ordering.deliver([(works["a"], b"")])
    assert sink.order == ["a", "b"]


def test_what_another_thread_brings_while_answers_are_handed_out_is_handed_out_after_them() -> None:
    entered, go = threading.Event(), threading.Event()

    class Slow(Line):
        def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
            if answers[0][0].id == "a":
                entered.set()
                assert go.wait(PATIENCE_SECONDS)
            super().deliver(answers)

    sink = Slow()
    ordering, works = line_of("abc", sink)
    first = threading.Thread(target=ordering.deliver, args=([(works["a"], b"")],))
    first.start()
    assert entered.wait(PATIENCE_SECONDS)
    ordering.deliver([(works["b"], b"")])
    ordering.deliver([(works["c"], b"")])
    assert sink.order == []
    go.set()
    first.join(PATIENCE_SECONDS)
    assert sink.order == ["a", "b", "c"]
