"""What goes on beside what: draining, loading, answering, stopping."""

from __future__ import annotations

import logging
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
from gated_programs import GatedProgram
from hosted_server import eventually
from model_folders import put
from onnx_models import Models
from repositories import ALL_VERSIONS, answer, serving, states
from scripted_engines import PATIENCE_SECONDS, Answers, infer

from headrace_server.core.catalogue import ModelState
from headrace_server.core.request import InputTensor, Request
from headrace_server.core.service import Service
from headrace_server.errors import DeadlineMissed, ModelNotFound, ModelNotReady, ShuttingDown
from headrace_server.models import long_loads
from headrace_server.models.repository import Mode, Repository, RepositoryOptions
from headrace_server.models.versions import LoadOptions


class Caller:
    """Waits for a change until it goes, and notes how often that is asked."""

    def __init__(self) -> None:
        self.has_gone = threading.Event()
        self._asked = threading.Semaphore(0)

    def __call__(self) -> bool:
        self._asked.release()
        return not self.has_gone.is_set()

    def await_place(self) -> None:
        """Return when the model has had its turn, and has been found to wait for a place to be loaded."""
        for _ in range(2):
            assert self._asked.acquire(timeout=PATIENCE_SECONDS)


class Stage:
    """An explicit repository, threads for calls that block, and a wait for what changes."""

    def __init__(self, folder: Path, parallel: int) -> None:
        options = RepositoryOptions(
            (folder,), Mode.EXPLICIT, parallel=parallel, load=LoadOptions(allow_python=True)
        )
        self._changed = threading.Condition()
        self.repository = Repository(options, self._notify)
        self.repository.open()
        self.repository.load_all()
        self._threads = ThreadPoolExecutor(8)
        self.answers = Answers()

    def begin(self, call: Callable[..., None], *arguments: str) -> Future[None]:
        return self._threads.submit(call, *arguments)

    def load_for(self, caller: Caller, name: str) -> Future[None]:
        return self._threads.submit(self.repository.load_model, name, is_wanted=caller)

    def infer(self, key: str) -> None:
        request = Request("m", "", "", [InputTensor("x", "FP32", (1, 3), bytes(12))])
        service = Service(self.repository.catalogue, self.repository)
        infer(service, request, self.answers, key)

    def answer_of(self, key: str) -> float:
        (came,) = self.answers.wait_for(key)
        assert isinstance(came, bytes), repr(came)
        return float(np.frombuffer(came, np.float32)[0])

    def await_state(self, version: str, state: ModelState, name: str = "m") -> None:
        def stands() -> bool:
            entries = self.repository.catalogue.index()
            return any((one.name, one.version, one.state) == (name, version, state) for one in entries)

        with self._changed:
            assert self._changed.wait_for(stands, PATIENCE_SECONDS), self.repository.catalogue.index()

    def close(self) -> None:
        assert self.repository.close(PATIENCE_SECONDS)
        self._threads.shutdown()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


@contextmanager
def staged(folder: Path, parallel: int = 2) -> Iterator[Stage]:
    stage = Stage(folder, parallel)
    yield stage
    stage.close()


def test_an_unload_answers_what_was_accepted_and_refuses_what_comes(tmp_path: Path) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="execute", adds=1)
    with staged(tmp_path) as stage:
        stage.repository.load_model("m")
        for key in ("in progress", "waits"):
            stage.infer(key)
        unloading = stage.begin(stage.repository.unload_model, "m")
        stage.await_state("1", ModelState.UNLOADING)
        with pytest.raises(ModelNotReady, match="model 'm' is being unloaded"):
            stage.infer("late")
        assert not unloading.done()
        program.open()
        unloading.result(PATIENCE_SECONDS)
        assert [stage.answer_of(key) for key in ("in progress", "waits")] == [1, 1]
        assert states(stage.repository) == {("m", "1"): ModelState.UNAVAILABLE}


def test_an_unload_whose_caller_has_gone_waits_for_the_last_answers_no_longer(tmp_path: Path) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="execute", adds=1)
    gone = threading.Event()
    with staged(tmp_path) as stage:
        stage.repository.load_model("m")
        stage.infer("accepted")
        unload = stage.begin(lambda: stage.repository.unload_model("m", is_wanted=lambda: not gone.is_set()))
        stage.await_state("1", ModelState.UNLOADING)
        assert not unload.done()
        gone.set()
        unload.result(PATIENCE_SECONDS)
        assert not program.is_open
        program.open()
        assert stage.answer_of("accepted") == 1


def test_a_load_does_not_wait_for_what_the_old_version_still_answers(tmp_path: Path, models: Models) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="execute", adds=1)
    with staged(tmp_path) as stage:
        stage.repository.load_model("m")
        stage.infer("old")
        put(tmp_path, "m", models.adding(2), 2)
        stage.repository.load_model("m")
        stage.await_state("1", ModelState.UNLOADING)
        assert answer(stage.repository) == 2
        program.open()
        assert stage.answer_of("old") == 1
        stage.await_state("1", ModelState.UNAVAILABLE)
        assert states(stage.repository)["m", "2"] is ModelState.READY


def test_a_model_is_loaded_again_while_it_is_still_being_unloaded(tmp_path: Path, models: Models) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="execute", adds=1)
    with staged(tmp_path) as stage:
        stage.repository.load_model("m")
        stage.infer("old")
        unloading = stage.begin(stage.repository.unload_model, "m")
        stage.await_state("1", ModelState.UNLOADING)
        (tmp_path / "m" / "1" / "model.py").unlink()
        put(tmp_path, "m", models.adding(2), 1)
        stage.repository.load_model("m")
        assert answer(stage.repository) == 2
        program.open()
        unloading.result(PATIENCE_SECONDS)
        assert stage.answer_of("old") == 1
        assert states(stage.repository) == {("m", "1"): ModelState.READY}
        assert answer(stage.repository) == 2


def test_loading_one_model_holds_up_no_other_one(tmp_path: Path, models: Models) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="load", adds=1)
    put(tmp_path, "fast", models.adding(2))
    with staged(tmp_path) as stage:
        slow = stage.begin(stage.repository.load_model, "m")
        stage.await_state("1", ModelState.LOADING)
        stage.repository.load_model("fast")
        assert answer(stage.repository, "fast") == 2
        stage.repository.unload_model("fast")
        assert not slow.done()
        program.open()
        slow.result(PATIENCE_SECONDS)


def test_no_more_models_are_loaded_at_a_time_than_allowed(tmp_path: Path, models: Models) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="load", adds=1)
    put(tmp_path, "fast", models.adding(2))
    with staged(tmp_path, parallel=1) as stage:
        slow = stage.begin(stage.repository.load_model, "m")
        stage.await_state("1", ModelState.LOADING)
        caller = Caller()
        fast = stage.load_for(caller, "fast")
        caller.await_place()
        with pytest.raises(ModelNotFound):
            stage.repository.load_model("misspelt")
        assert not fast.done()
        program.open()
        for load in (slow, fast):
            load.result(PATIENCE_SECONDS)
        assert answer(stage.repository, "fast") == 2


def test_a_load_whose_caller_goes_before_there_is_a_place_for_it_is_not_begun(tmp_path: Path) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="load", adds=1)
    other = GatedProgram(tmp_path, "other", 1, gate="never", adds=1)
    with staged(tmp_path, parallel=1) as stage:
        first = stage.begin(stage.repository.load_model, "m")
        eventually(lambda: program.loads == 1, "the first one is being loaded")
        caller = Caller()
        second = stage.load_for(caller, "other")
        caller.await_place()
        caller.has_gone.set()
        with pytest.raises(DeadlineMissed, match="whoever asked had gone before its turn came"):
            second.result(PATIENCE_SECONDS)
        assert not program.is_open
        program.open()
        first.result(PATIENCE_SECONDS)
        assert states(stage.repository)["other", ""] is ModelState.NOT_LOADED
        assert other.loads == 0


def test_a_load_that_goes_on_for_long_is_told_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="load", adds=1)
    monkeypatch.setattr(long_loads, "AFTER_SECONDS", 0.001)
    told: Queue[str] = Queue()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.put(record.getMessage())

    handler = Told()
    logging.getLogger(long_loads.__name__).addHandler(handler)
    with staged(tmp_path) as stage:
        load = stage.begin(stage.repository.load_model, "m")
        for _ in range(3):
            assert "model m version 1 has been loading for " in told.get(timeout=PATIENCE_SECONDS)
        program.open()
        load.result(PATIENCE_SECONDS)
    logging.getLogger(long_loads.__name__).removeHandler(handler)


def test_many_who_ask_for_one_model_load_it_once(tmp_path: Path) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="load", adds=1)
    with staged(tmp_path) as stage:
        loads = [stage.begin(stage.repository.load_model, "m") for _ in range(5)]
        program.open()
        for load in loads:
            load.result(PATIENCE_SECONDS)
        assert program.loads == 1
        assert answer(stage.repository) == 1


def test_an_unload_that_comes_during_a_load_has_its_turn_after_it(tmp_path: Path) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="load", adds=1)
    with staged(tmp_path) as stage:
        loading = stage.begin(stage.repository.load_model, "m")
        eventually(lambda: program.loads == 1, "it is being loaded")
        unloading = stage.begin(stage.repository.unload_model, "m")
        program.open()
        for call in (loading, unloading):
            call.result(PATIENCE_SECONDS)
        assert states(stage.repository) == {("m", "1"): ModelState.UNAVAILABLE}
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine-m-")]


def test_loads_and_unloads_of_one_model_at_once_leave_it_as_the_last_one_said(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1))
    with staged(tmp_path) as stage:
        control = (stage.repository.load_model, stage.repository.unload_model)
        for call in [stage.begin(control[place % 2], "m") for place in range(24)]:
            call.result(PATIENCE_SECONDS)
        ready = states(stage.repository)["m", "1"] is ModelState.READY
        engines = [thread for thread in threading.enumerate() if thread.name.startswith("engine-m-")]
        assert len(engines) == ready, "what does not serve is closed"
        stage.repository.load_model("m")
        assert answer(stage.repository) == 1


def test_versions_that_are_kept_answer_while_others_are_loaded(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1))
    (tmp_path / "m" / "config.pbtxt").write_text(ALL_VERSIONS)
    with staged(tmp_path) as stage:
        stage.repository.load_model("m")
        program = GatedProgram(tmp_path, "m", 2, gate="load", adds=2)
        loading = stage.begin(stage.repository.load_model, "m")
        stage.await_state("2", ModelState.LOADING)
        assert answer(stage.repository) == 1
        with pytest.raises(ModelNotReady, match="model 'm' version 2 is being loaded"):
            stage.repository.catalogue.find("m", "2")
        program.open()
        loading.result(PATIENCE_SECONDS)
        assert answer(stage.repository) == 2


def test_a_stop_does_not_wait_for_a_load(tmp_path: Path) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="load", adds=1)
    other = GatedProgram(tmp_path, "other", 1, gate="load", adds=1)
    with staged(tmp_path, parallel=1) as stage:
        first = stage.begin(stage.repository.load_model, "m")
        eventually(lambda: program.loads == 1, "the first one is being loaded")
        caller = Caller()
        second = stage.load_for(caller, "other")
        caller.await_place()
        assert not stage.repository.close(PATIENCE_SECONDS), "something still goes on"
        program.open()
        for load in (first, second):
            with pytest.raises(ShuttingDown):
                load.result(PATIENCE_SECONDS)
        assert other.loads == 0, "what was not begun is left out"


def test_a_stop_waits_for_what_is_drained_as_long_as_it_may(
    tmp_path: Path, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    program = GatedProgram(tmp_path, "m", 1, gate="execute", adds=1)
    with staged(tmp_path) as stage:
        stage.repository.load_model("m")
        stage.infer("old")
        put(tmp_path, "m", models.adding(2), 2)
        stage.repository.load_model("m")
        assert not stage.repository.close(0.01)
        assert "not finished in 0.0 s: m version 1" in caplog.messages
        program.open()
        assert stage.answer_of("old") == 1


def test_a_program_that_exits_where_it_is_looked_at_fails_its_own_version(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "other", models.adding(1))
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    exits = """
        class Exits(type):
            @property
            def inputs(cls):
                raise SystemExit("looked at")

        class Model(metaclass=Exits):
            def execute(self, batch):
                return {}
    """
    (folder / "model.py").write_text(textwrap.dedent(exits))
    with serving(tmp_path, allow_python=True) as repository:
        entries = {entry.name: entry for entry in repository.index()}
        assert entries["m"].state is ModelState.UNAVAILABLE
        assert entries["m"].reason == "SystemExit: looked at"
        assert entries["other"].state is ModelState.READY
