"""Programs that do what a test tells them, and a sink for the responses that they make."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripted_engines import PATIENCE_SECONDS, ROWS, Answers, Shelf, infer

from headrace_engines.spec import ModelSpec
from headrace_engines.steps import Call, Outcome
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import InputTensor, Parameter, Request, Work
from headrace_server.core.service import Service
from headrace_server.core.settings import ModelSettings
from headrace_server.core.steps_batch import Patience
from headrace_server.core.steps_worker import StepsWorker
from headrace_server.core.workers import worker_for

Script = Callable[[Sequence[Call]], Iterable[Outcome]]


def rows(*values: int) -> tuple[NDArray[Any], ...]:
    """Return the outputs of a response: rows of one element each."""
    return (np.array(values, np.int64).reshape(-1, 1),)


def doubled(calls: Sequence[Call]) -> Iterator[Outcome]:
    """Answer each call once, with twice its rows."""
    for place, call in enumerate(calls):
        yield Outcome(place, (2 * call.inputs["x"],), final=True)


class ScriptedProgram:
    """Executes a script."""

    platform = "scripted"

    def __init__(
        self, script: Script = doubled, spec: ModelSpec = ROWS, *, is_decoupled: bool = False
    ) -> None:
        self.spec = spec
        self.is_decoupled = is_decoupled
        self.script = script
        self.executed: list[list[str]] = []
        """The ids of the calls of each execution."""
        self.ended = threading.Event()
        """Set when an execution is read no further."""
        self.closed = threading.Event()

    def execute(self, calls: Sequence[Call]) -> Generator[Outcome, None, None]:
        self.executed.append([call.id for call in calls])
        try:
            yield from self.script(calls)
        finally:
            self.ended.set()

    def replicate(self) -> ScriptedProgram:
        return ScriptedProgram(self.script, self.spec, is_decoupled=self.is_decoupled)

    def close(self) -> None:
        self.closed.set()


class Responses(Answers):
    """A sink that takes several responses for a request, and reads them at once or never."""

    def __init__(
        self, *, reads: bool = True, fails_to_encode: Callable[[Work], bool] = lambda _: False
    ) -> None:
        super().__init__(fails_to_encode=fails_to_encode)
        self._reads = reads
        self.parts: dict[Any, list[bytes]] = {}

    def deliver_part(self, work: Work, answer: bytes) -> None:
        with self._changed:
            self.parts.setdefault(work.reply, []).append(answer)
            self._changed.notify_all()
        if self._reads:
            assert work.window is not None
            work.window.written(len(answer))

    def wait_for_parts(self, key: Any, count: int) -> list[list[int]]:
        """Return the elements of the responses that were not the last, once there are so many."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.parts.get(key, [])) >= count, PATIENCE_SECONDS)
            assert came, f"{len(self.parts.get(key, []))} of {count} responses came for {key}"
            return [np.frombuffer(part, np.int64).tolist() for part in self.parts[key]]


class ServedProgram:
    """A model that is a program, with a worker for each instance, and the service in front of it."""

    def __init__(self, program: ScriptedProgram, settings: ModelSettings, limits: Limits) -> None:
        self.program = program
        self.losses: list[str | None] = []
        self.model = Model(
            "m", "1", program.spec, program.platform, limits, self._note_loss, settings=settings
        )
        programs = [program, *(program.replicate() for _ in range(settings.instances - 1))]
        self.workers = [worker_for(self.model, each, number) for number, each in enumerate(programs)]
        self.service = Service(Shelf(self.model))
        self.answers = Responses()

    def infer(self, key: Any, *values: int, sink: Any = None, **parameters: Parameter) -> Work:
        """Ask for these rows of one element each; the key is the request's id as well."""
        data = np.array(values, np.int64).tobytes()
        inputs = [InputTensor("x", "INT64", (len(values), 1), data)]
        request = Request("m", "", str(key), inputs, parameters=parameters)
        return infer(self.service, request, sink or self.answers, key, takes_many=True)

    def _note_loss(self) -> None:
        self.losses.append(self.model.lost)


@contextmanager
def serving_program(
    script: Script = doubled,
    *,
    spec: ModelSpec = ROWS,
    settings: ModelSettings | None = None,
    starts: bool = True,
    patience: Patience | None = None,
) -> Iterator[ServedProgram]:
    """Serve the script until the block ends; what holds it must be open by then.

    With `starts` false the test starts the workers, when it has asked for what it wants in one batch.
    """
    settings = settings or ModelSettings()
    program = ScriptedProgram(script, spec, is_decoupled=settings.is_decoupled)
    served = ServedProgram(program, settings, Limits())
    if patience is not None:
        served.workers = [StepsWorker(served.model, program, patience=patience)]
    if starts:
        start(served)
    try:
        yield served
    finally:
        served.model.close(drain=False)
        for worker in served.workers:
            assert worker.join(PATIENCE_SECONDS), "the worker did not end"
        assert program.closed.is_set()


def start(served: ServedProgram) -> None:
    """Start the workers."""
    for worker in served.workers:
        worker.start()
