from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scripted_engines import ROWS, Answers, Gate, ScriptedEngine, Served, answered, serving
from works import work_of

from headrace_server.core.delivery import deliver, encode
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import State, Work
from headrace_server.errors import EngineFailed, InferenceError, InvalidInput

MODEL = Model("m", "1", ROWS, "scripted", Limits())
ROW = np.array([[7]], np.int64)


class Deliveries(Answers):
    """A sink that remembers each call, and fails if it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self._error = error

    def encode(self, work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
        if self._error is not None:
            raise self._error
        return super().encode(work, outputs)

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        self.calls.append([work.id for work, _ in answers])
        if self._error is not None:
            raise self._error


def test_each_sink_gets_its_answers_in_one_call_and_in_their_order() -> None:
    one, other = Deliveries(), Deliveries()
    works = [work_of(MODEL, sink, name) for sink, name in ((one, "a"), (other, "b"), (one, "c"))]
    deliver([(work, b"") for work in works])
    assert (one.calls, other.calls) == ([["a", "c"]], [["b"]])
    assert all((work.state, work.data) == (State.ENDED, ()) for work in works)


def test_a_sink_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Deliveries(RuntimeError("gone")), Deliveries()
    deliver([(work_of(MODEL, broken, "a"), b""), (work_of(MODEL, sound, "b"), b"")])
    assert sound.calls == [["b"]]
    assert "a transport did not take 1 answers" in caplog.text


def test_an_answer_is_what_its_sink_makes_of_the_outputs() -> None:
    assert encode(work_of(MODEL, Deliveries()), [ROW]) == ROW.tobytes()


def test_a_refusal_of_the_sink_is_told_as_it_is_and_anything_else_only_by_an_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = InvalidInput("too many classes")
    with caplog.at_level(logging.ERROR):
        assert encode(work_of(MODEL, Deliveries(refusal)), [ROW]) is refusal
        assert not caplog.records
        failed = encode(work_of(MODEL, Deliveries(RuntimeError("secret"))), [ROW])
    assert isinstance(failed, EngineFailed)
    assert "the answer could not be encoded" in str(failed)
    assert "secret" not in str(failed)
    assert "secret" in caplog.text
    assert failed.error_id in caplog.text


class AsksAgain(Answers):
    """A sink that answers where it is called, as a transport without an event loop does.

    Its caller sends the next request at once.
    """

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served
        self.calls: list[tuple[str, list[str]]] = []

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        self.calls.append((threading.current_thread().name, [work.id for work, _ in answers]))
        for work, _ in answers:
            if len(work.id) < 3:
                self._served.infer(work.id + "+", 1, sink=self)
        super().deliver(answers)


def test_a_batch_answers_its_callers_from_the_engines_thread_in_one_call_without_a_hop() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        sink = AsksAgain(served)
        served.infer("first", 0)
        gate.arrival()
        for name in "ab":
            served.infer(name, 1, sink=sink)
        gate.open()
        assert sink.rows_of("a++") == sink.rows_of("b++") == answered(1)
    assert sink.calls == [("engine-m-1-0", ["a" + more, "b" + more]) for more in ("", "+", "++")]
