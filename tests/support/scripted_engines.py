"""Engines that do what a test tells them, and a sink that remembers what it was given."""

from __future__ import annotations

import collections
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.engine import DeviceSide
from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_server.core.catalogue import Entry, ModelState
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, InputTensor, Request, Work
from headrace_server.core.service import Service
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings
from headrace_server.core.workers import worker_for
from headrace_server.errors import InferenceError, ModelNotFound, ModelNotReady

PATIENCE_SECONDS = 20.0
"""Longest wait for something that must happen; a test that waits this long has failed."""

Arrays = tuple[NDArray[Any], ...]

INT64 = np.dtype(np.int64)


def rows_spec(max_batch_size: int = 8, dims: tuple[int, ...] = (1,)) -> ModelSpec:
    """One INT64 input `x`, one INT64 output `y` of the same shape."""
    x, y = TensorSpec("x", INT64, dims), TensorSpec("y", INT64, dims)
    return ModelSpec((x,), (y,), max_batch_size, (1, max_batch_size) if max_batch_size else ())


ROWS = rows_spec()
RAGGED = rows_spec(dims=(ANY,))
WITHOUT_BATCH = rows_spec(max_batch_size=0, dims=(2,))


def f(rows: NDArray[Any]) -> NDArray[Any]:
    """What every scripted engine answers: a function of the row that tells rows apart."""
    return rows * 3 + 1


def answered(*values: int) -> list[int]:
    """Return what every scripted engine answers to these elements."""
    return [int(f(np.int64(value))) for value in values]  # type: ignore[arg-type]  # a number is a row too


class ScriptedEngine:
    """Answers `f` of each row; `before` sees the inputs of every execution, and may block or raise."""

    platform = "scripted"
    computes_on_caller = False
    device: DeviceSide | None = None

    def __init__(
        self, spec: ModelSpec = ROWS, *, slots: int = 1, before: Callable[[Arrays], None] = lambda _: None
    ) -> None:
        self.spec = spec
        self.slots = slots
        self.executed: list[Arrays] = []
        self.closed = threading.Event()
        self.before = before
        self._pending: dict[int, int] = {}
        buffers = spec.inputs if spec.is_staged else ()
        self._inputs = [
            tuple(np.zeros((spec.max_batch_size, *tensor.dims), tensor.dtype) for tensor in buffers)
            for _ in range(slots)
        ]

    def inputs(self, slot: int) -> Arrays:
        return self._inputs[slot]

    def submit(self, slot: int, rows: int) -> None:
        assert slot not in self._pending, "a slot is used while its batch is in flight"
        assert 0 < rows <= self.spec.max_batch_size
        self._pending[slot] = rows

    def wait(self, slot: int) -> Arrays:
        rows = self._pending.pop(slot)
        return self.run([buffer[:rows].copy() for buffer in self._inputs[slot]])

    def run(self, arrays: Sequence[NDArray[Any]]) -> Arrays:
        inputs = tuple(arrays)
        self.executed.append(inputs)
        self.before(inputs)
        return tuple(f(array) for array in inputs)

    def close(self) -> None:
        self.closed.set()


def rows_executed(engine: ScriptedEngine) -> list[list[int]]:
    """Return the elements of each batch that was executed."""
    return [[int(value) for value in inputs[0].ravel()] for inputs in engine.executed]


class Gate:
    """Holds each execution until the test lets it go; given to an engine as its `before`."""

    def __init__(self) -> None:
        self._arrivals: queue.Queue[Arrays] = queue.Queue()
        self._passes = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, inputs: Arrays) -> None:
        self._arrivals.put(inputs)
        if not self._open.is_set() and not self._passes.acquire(timeout=PATIENCE_SECONDS):
            raise AssertionError("nobody opened the gate")

    def arrival(self) -> Arrays:
        """Wait until the engine has begun an execution; return its inputs."""
        return self._arrivals.get(timeout=PATIENCE_SECONDS)

    def let_one_through(self) -> None:
        self._passes.release()

    def open(self) -> None:
        """Let through what waits and all that comes."""
        self._open.set()
        self._passes.release(1000)


class FailsOn:
    """Raises when a batch holds this element; given to an engine as its `before`."""

    def __init__(self, value: int, error: Exception) -> None:
        self._value = value
        self._error = error

    def __call__(self, inputs: Arrays) -> None:
        if any((array == self._value).any() for array in inputs):
            raise self._error


class Answers:
    """A sink: answers by the caller's key, and a wait for as many as are due."""

    def __init__(self, *, fails_to_encode: Callable[[Work], bool] = lambda _: False) -> None:
        self.by_key: dict[Any, list[bytes | InferenceError]] = collections.defaultdict(list)
        self._changed = threading.Condition()
        self._fails_to_encode = fails_to_encode

    def encode(self, work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
        if self._fails_to_encode(work):
            raise RuntimeError(f"cannot encode {work.id}")
        return b"".join(array.tobytes() for array in outputs)

    def admit(self, work: Work, answer: bytes) -> None:
        pass

    def deliver_part(self, work: Work, answer: bytes) -> None:
        raise AssertionError("nothing here answers in parts")

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        with self._changed:
            for work, answer in answers:
                self.by_key[work.reply].append(answer)
            self._changed.notify_all()

    def wait_for(self, *keys: Any) -> list[bytes | InferenceError]:
        """Return the first answer to each of these keys, once all are there."""
        with self._changed:
            came = self._changed.wait_for(lambda: all(self.by_key[k] for k in keys), PATIENCE_SECONDS)
            assert came, f"no answer for {[k for k in keys if not self.by_key[k]]}"
            return [self.by_key[k][0] for k in keys]

    def rows_of(self, key: Any) -> list[int]:
        """Return the caller's answered INT64 elements, once they are there."""
        (answer,) = self.wait_for(key)
        assert isinstance(answer, bytes), repr(answer)
        return [int(value) for value in np.frombuffer(answer, np.int64)]

    def error_of(self, key: Any) -> InferenceError:
        """Return the error that the caller got, once it is there."""
        (answer,) = self.wait_for(key)
        assert isinstance(answer, InferenceError), repr(answer)
        return answer


class Shelf:
    """A catalogue of models that a test put there; each version is called "1"."""

    def __init__(self, *models: Model) -> None:
        self._models = {model.facts.name: model for model in models}

    def put(self, model: Model) -> None:
        self._models[model.facts.name] = model

    def remove(self, name: str) -> Model:
        return self._models.pop(name)

    @property
    def is_ready(self) -> bool:
        return bool(self.ready())

    def find(self, name: str, version: str) -> Model:
        if name not in self._models or version not in ("", "1"):
            raise ModelNotFound(f"there is no model {name!r} {version!r}")
        return self._models[name]

    def answers(self, name: str, version: str) -> bool:
        try:
            return self.find(name, version).lost is None
        except (ModelNotFound, ModelNotReady):
            return False

    def ready(self) -> Sequence[Model]:
        return [model for model in self._models.values() if model.lost is None]

    def index(self) -> Sequence[Entry]:
        return [
            Entry(name, "1", ModelState.UNAVAILABLE if model.lost else ModelState.READY, model.lost or "")
            for name, model in sorted(self._models.items())
        ]


def infer(
    service: Service,
    request: Request,
    sink: Any,
    reply: Any,
    *,
    deadline: float = NO_DEADLINE,
    now_ns: int | None = None,
    takes_many: bool = False,
    hold: bool = False,
) -> Work:
    """Ask as a transport does; return the work that was accepted."""
    now_ns = time.monotonic_ns() if now_ns is None else now_ns
    prepare = functools.partial(
        service.prepare, request, deadline, sink, reply, now_ns, takes_many=takes_many
    )
    return service.submit(prepare(), prepare, hold=hold)


class Served:
    """A model with its worker, and the service in front of it."""

    def __init__(
        self,
        engine: ScriptedEngine,
        limits: Limits,
        name: str = "m",
        *,
        settings: ModelSettings = DEFAULT_SETTINGS,
        more: Sequence[ScriptedEngine] = (),
    ) -> None:
        """`more` are further instances of the engine, each with a worker of its own."""
        self.losses: list[str | None] = []
        self.engine = engine
        self.model = Model(
            name, "1", engine.spec, engine.platform, limits, self._note_loss, settings=settings
        )
        self.worker, *others = (worker_for(self.model, one, at) for at, one in enumerate((engine, *more)))
        self.workers = [self.worker, *others]
        self.shelf = Shelf(self.model)
        self.service = Service(self.shelf)
        self.answers = Answers()

    def infer(
        self,
        key: Any,
        *values: int,
        deadline: float = NO_DEADLINE,
        timeout_us: int = 0,
        priority: int = 0,
        sink: Any = None,
        now_ns: int | None = None,
        hold: bool = False,
    ) -> Work:
        """Ask for these rows of one element each; a ragged model gets one row with all of them."""
        spec = self.engine.spec
        shape = (1, len(values)) if spec == RAGGED else (len(values), *spec.inputs[0].dims)
        if not spec.has_batch_axis:
            shape = (len(values),)
        data = np.array(values, np.int64).tobytes()
        request = Request(
            self.model.facts.name,
            "",
            str(key),
            [InputTensor("x", "INT64", shape, data)],
            parameters={"timeout": timeout_us, "priority": priority} if timeout_us or priority else {},
        )
        return infer(
            self.service,
            request,
            sink or self.answers,
            key,
            deadline=deadline,
            now_ns=now_ns,
            hold=hold,
        )

    def _note_loss(self) -> None:
        self.losses.append(self.model.lost)


@contextmanager
def serving(
    engine: ScriptedEngine,
    limits: Limits | None = None,
    name: str = "m",
    *,
    settings: ModelSettings = DEFAULT_SETTINGS,
    more: Sequence[ScriptedEngine] = (),
) -> Iterator[Served]:
    """Serve the engines until the block ends; whatever holds them must be open by then."""
    served = Served(engine, limits or Limits(), name, settings=settings, more=more)
    for worker in served.workers:
        worker.start()
    try:
        yield served
    finally:
        served.model.close(drain=False)
        for one in (engine, *more):
            if isinstance(gate := one.before, Gate):
                gate.open()
        assert all(worker.join(PATIENCE_SECONDS) for worker in served.workers), "a worker did not end"
        assert all(one.closed.wait(PATIENCE_SECONDS) for one in (engine, *more))
