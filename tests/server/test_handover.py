"""Requests that come while one version of a model takes over from another."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated_server import answered, expected, rows
from hosted_server import connected, hosted
from model_folders import put
from numpy.typing import NDArray
from onnx_models import Models
from repositories import explicit
from scripted_engines import PATIENCE_SECONDS, Answers, ScriptedEngine, Shelf, infer, serving

from headrace_server.core.model import Model
from headrace_server.core.request import InputTensor, Request, Work
from headrace_server.core.service import Service
from headrace_server.errors import InferenceError, ModelNotReady, ShuttingDown

REQUEST = Request("m", "", "", [InputTensor("x", "INT64", (1, 1), bytes(8))])


class Changing(Shelf):
    """A catalogue that changes right after it was first asked, before the caller can have submitted."""

    def __init__(self, model: Model, change: Callable[[], None]) -> None:
        super().__init__(model)
        self._change: Callable[[], None] | None = change

    def find(self, name: str, version: str) -> Model:
        model = super().find(name, version)
        if self._change is not None:
            change, self._change = self._change, None
            change()
        return model


def test_a_request_that_found_the_old_version_is_answered_by_the_new_one() -> None:
    with serving(ScriptedEngine()) as old, serving(ScriptedEngine()) as new:

        def change() -> None:
            catalogue.put(new.model)
            old.model.close(drain=True)

        catalogue = Changing(old.model, change)
        answers = Answers()
        work = infer(Service(catalogue), REQUEST, answers, "key")
        assert work.model is new.model
        assert answers.rows_of("key") == [1]
        assert old.model.snapshot().fail.count == 0


def test_invariant_5_a_call_that_found_the_old_version_is_answered_by_the_new_one() -> None:
    with serving(ScriptedEngine()) as old, serving(ScriptedEngine()) as new:

        def change() -> None:
            catalogue.put(new.model)
            old.model.close(drain=True)

        catalogue = Changing(old.model, change)
        with hosted(Service(catalogue)) as server, connected(server.address) as stub:
            assert answered(stub.ModelInfer(rows(7), timeout=PATIENCE_SECONDS)) == expected(7)
        assert (old.engine.executed, len(new.engine.executed)) == ([], 1)


def test_a_request_that_found_a_model_which_is_unloaded_then_is_told_so() -> None:
    with serving(ScriptedEngine()) as old:

        def change() -> None:
            catalogue.find = unloaded  # type: ignore[method-assign]  # as if by another thread
            old.model.close(drain=True)

        def unloaded(name: str, version: str) -> Model:
            raise ModelNotReady("model 'm' is being unloaded")

        catalogue = Changing(old.model, change)
        with pytest.raises(ModelNotReady, match="being unloaded"):
            infer(Service(catalogue), REQUEST, Answers(), "key")


def test_a_request_that_found_a_model_of_a_server_which_stops_is_told_so() -> None:
    with serving(ScriptedEngine()) as old:
        catalogue = Changing(old.model, lambda: old.model.close(drain=True))
        with pytest.raises(ShuttingDown):
            infer(Service(catalogue), REQUEST, Answers(), "key")


class Crowd:
    """Threads that ask one after the other, and a sink that notes which version answered what."""

    def __init__(self, service: Service, threads: int) -> None:
        self._service = service
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        self.outcomes: Counter[str] = Counter()
        self.versions: set[str] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), "a request was never answered"

    def await_answers(self, count: int) -> None:
        with self._changed:
            goal = self.outcomes.total() + count
            assert self._changed.wait_for(lambda: self.outcomes.total() >= goal, PATIENCE_SECONDS)

    def encode(self, work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
        version = work.model.facts.version
        right = np.array_equal(outputs[0], np.full((1, 3), float(version)))
        return f"{'right' if right else 'wrong'} {version}".encode()

    def admit(self, work: Work, answer: bytes) -> None:
        pass

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        with self._changed:
            for work, answer in answers:
                outcome = answer.decode() if isinstance(answer, bytes) else repr(answer)
                self.outcomes[outcome.partition(" ")[0]] += 1
                self.versions.add(outcome.partition(" ")[2])
                work.reply.release()
            self._changed.notify_all()

    def _ask(self) -> None:
        answered = threading.Semaphore(0)
        request = Request("m", "", "", [InputTensor("x", "FP32", (1, 3), bytes(12))])
        while not self._ended.is_set():
            try:
                infer(self._service, request, self, answered)
            except InferenceError as error:
                with self._changed:
                    self.outcomes[repr(error)] += 1
                continue
            assert answered.acquire(timeout=PATIENCE_SECONDS)


def test_invariant_5_versions_that_come_and_go_lose_no_request_and_mix_no_rows(
    tmp_path: Path, models: Models
) -> None:
    files = [models.adding(number) for number in range(1, 21)]
    put(tmp_path, "m", files[0], 1)
    with (
        explicit(tmp_path, load=("m",)) as repository,
        Crowd(Service(repository.catalogue, repository), threads=8) as crowd,
    ):
        for number, file in itertools.islice(enumerate(files, 1), 1, None):
            crowd.await_answers(20)
            put(tmp_path, "m", file, number)
            repository.load_model("m")
        crowd.await_answers(20)
    assert set(crowd.outcomes) == {"right"}, crowd.outcomes
    assert len(crowd.versions) == len(files)
