"""What the core costs without a transport: a request's bytes to its answer's bytes, on one thread.

The thread is the core's own worker. Its model is one whose `take` first brings in the requests of the
next batch, the way a transport would: codec, admission, queue. So every batch has exactly the size that
is measured, and nothing but the callers' side of a transport is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.models import INPUT, OUTPUT, Network, request
from headrace_engines.engine import Engine
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_server.core.catalogue import Entry
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.service import Service
from headrace_server.core.worker import Worker
from headrace_server.errors import InferenceError
from headrace_server.transport.answers import Encoder
from headrace_server.transport.codec import decode

_MAX_BATCH: Final = 64
_WARM_UP_SHARE: Final = 10
_MESSAGES: Final = 64
"""Different ones, sent in turn."""


class NullEngine:
    """Computes nothing: what is left is the core's own cost."""

    platform = "null"
    slots = 1
    computes_on_caller = False
    device = None

    def __init__(self, model: Network) -> None:
        self.spec = ModelSpec(
            (TensorSpec(INPUT, np.dtype(np.float32), model.shape),),
            (TensorSpec(OUTPUT, np.dtype(np.float32), (model.classes,)),),
            _MAX_BATCH,
        )
        self._model = model
        self._inputs = (np.zeros((_MAX_BATCH, *model.shape), np.float32),)
        self._output = np.zeros((_MAX_BATCH, model.classes), np.float32)
        self._rows = 0

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return the staging buffer."""
        return self._inputs

    def submit(self, slot: int, rows: int) -> None:
        """Note the number of rows."""
        self._rows = rows

    def wait(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return zeros."""
        return (self._output[: self._rows],)

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        """Return zeros."""
        return (self._output[: sum(len(array) for array in arrays if array is not None)],)

    def replicate(self) -> NullEngine:
        """Return one like this."""
        return NullEngine(self._model)

    def close(self) -> None:
        """Hold nothing."""


class FedModel(Model):
    """A model whose worker brings its own callers, batch by batch, and measures itself."""

    def __init__(self, name: str, engine: Engine, batch: int, requests: int) -> None:
        super().__init__(name, "1", engine.spec, engine.platform, Limits())
        self._batch = batch
        self._rounds_left = self._rounds = max(1, requests // batch)
        self._warm_up_rounds = self._rounds // _WARM_UP_SHARE
        self._begun_ns = 0
        self.bring: Callable[[], None]
        self.request_us = 0.0
        """Microseconds of the thread's CPU time for one request."""

    def take(self, *, wait: bool, instance: int = 0) -> list[Work] | None:
        """Let a batch of requests come in, and hand it out; None when all have been answered."""
        if self._rounds_left == self._rounds - self._warm_up_rounds:
            self._begun_ns = time.thread_time_ns()
        if self._rounds_left == 0:
            measured = (self._rounds - self._warm_up_rounds) * self._batch
            self.request_us = (time.thread_time_ns() - self._begun_ns) / measured / 1000
            return None
        self._rounds_left -= 1
        for _ in range(self._batch):
            self.bring()
        return super().take(wait=False, instance=instance)


class _OneModel:
    """A catalogue that always answers with the same model."""

    is_ready = True

    def __init__(self, model: Model) -> None:
        self._model = model

    def find(self, name: str, version: str) -> Model:
        return self._model

    def answers(self, name: str, version: str) -> bool:
        return True

    def ready(self) -> Sequence[Model]:
        return (self._model,)

    def index(self) -> Sequence[Entry]:
        return ()


class _Counter:
    """A sink that encodes answers as the transports do, and counts the good ones."""

    def __init__(self) -> None:
        self.encode = Encoder().encode
        self.good = 0

    def admit(self, work: Work, answer: bytes) -> None:
        """There is room for every answer."""

    def deliver_part(self, work: Work, answer: bytes) -> None:
        raise NotImplementedError("this model answers each request once")

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        for _, answer in answers:
            if isinstance(answer, bytes):
                self.good += 1


def engines(model: Network, repository: Path) -> dict[str, Callable[[], Engine]]:
    """Return the engines that the core is measured with, by name."""
    path = repository / model.name / "1" / "model.onnx"
    return {
        "no-op": lambda: NullEngine(model),
        "onnxruntime": lambda: OnnxRuntimeEngine(path, max_batch_size=_MAX_BATCH),
    }


def measure(model: Network, engine: Engine, batch: int, requests: int) -> float:
    """Return microseconds of one core for one request, in batches of `batch`."""
    fed = FedModel(model.name, engine, batch, requests)
    service = Service(_OneModel(fed))
    sink = _Counter()
    messages = [request(model, f"r{number}") for number in range(_MESSAGES)]
    turn = 0

    def bring() -> None:
        nonlocal turn
        turn += 1
        asked, now_ns = decode(messages[turn % _MESSAGES]), time.monotonic_ns()
        work = service.prepare(asked, NO_DEADLINE, sink, None, now_ns)
        service.submit(work, service.prepare, asked, NO_DEADLINE, sink, None, now_ns)

    fed.bring = bring
    worker = Worker(fed, engine)
    worker.start()
    worker.join()
    if sink.good != turn:
        raise RuntimeError(f"the core answered {sink.good} of {turn} requests well")
    return fed.request_us
