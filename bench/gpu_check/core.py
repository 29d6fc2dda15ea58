"""Rows a second of the core without a transport: a request's bytes to its answer's bytes, on an engine.

One thread brings requests as a transport does, as long as there is room for them; the engine's worker
takes batches of them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Final

from bench.gpu_check import opening, stages
from bench.gpu_check.cases import Case, find
from bench.gpu_check.record import Record
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import CORE
from bench.models import request
from headrace_engines.engine import Engine
from headrace_server.core.catalogue import Entry
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.service import Service
from headrace_server.core.workers import worker_for
from headrace_server.errors import InferenceError
from headrace_server.transport.answers import Encoder
from headrace_server.transport.codec import decode

_LARGEST: Final = (32, 64, 128, 256)
_WAITING_BATCHES: Final = 4
_SECONDS: Final = 8
"""Of a measurement, in those of one figure of the engine: here threads have to come into step."""
_WARM_UP: Final = 0.25
"""As much of that again comes first."""
_MESSAGES: Final = 64
_DRAIN_SECONDS: Final = 20.0


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the table CORE with what comes of the case `subject`."""
    case = find(setting, subject)
    most = stages.largest(setting, subject)
    with opening.shared(setting) as gpu:
        for batch in [rows for rows in _LARGEST if rows <= most] or [most]:
            with record.step(f"batches of {batch}"):
                setting.check_time((1 + _WARM_UP) * _SECONDS * setting.seconds)
                engine = opening.plan(case, gpu, batch, setting)
                rate, cpu_us, mean_batch = through_core(case, engine, batch, _SECONDS * setting.seconds)
                record.row(
                    CORE,
                    model=case.name,
                    batch=batch,
                    **{
                        "rows/s": round(rate),
                        "CPU µs/row": round(cpu_us, 2),
                        "mean batch": round(mean_batch, 1),
                    },
                )


class Callers:
    """A sink that counts good answers, and lets as many requests be brought as have been answered."""

    def __init__(self, most: int) -> None:
        self.encode = Encoder().encode
        self.room = threading.Semaphore(most)
        self.good = 0
        self.failed: InferenceError | None = None

    def admit(self, work: Work, answer: bytes) -> None:
        """There is room for every answer."""

    def deliver_part(self, work: Work, answer: bytes) -> None:
        """Not for models that answer once."""
        raise NotImplementedError("this model answers each request once")

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        """Count them."""
        for _, answer in answers:
            if isinstance(answer, bytes):
                self.good += 1
            else:
                self.failed = answer
        self.room.release(len(answers))


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


def through_core(case: Case, engine: Engine, batch: int, seconds: float) -> tuple[float, float, float]:
    """Return rows a second, microseconds of processor time a row, and the mean batch; closes the engine."""
    with contextlib.ExitStack() as held:
        held.callback(engine.close)  # its memory would keep the next batches from being run
        model = Model(case.network.name, "1", engine.spec, engine.platform, Limits())
        service = Service(_OneModel(model))
        callers = Callers(batch * _WAITING_BATCHES)
        messages = [request(case.network, f"r{number}") for number in range(_MESSAGES)]
        worker = worker_for(model, engine, 0)
        worker.start()
        held.pop_all()  # the worker closes it
    try:
        _bring(service, callers, messages, _WARM_UP * seconds)
        before, begun, cpu = callers.good, time.perf_counter(), time.process_time()
        _bring(service, callers, messages, seconds)
        rows = callers.good - before
        elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu
    finally:
        model.close(drain=True)
        worker.join(_DRAIN_SECONDS)
    if callers.failed is not None:
        raise callers.failed
    counted = model.snapshot()
    executions = sum(compute.count for compute in counted.by_batch_size.values())
    answered = sum(size * compute.count for size, compute in counted.by_batch_size.items())
    return rows / elapsed, cpu / max(rows, 1) * 1e6, answered / max(executions, 1)


def _bring(service: Service, callers: Callers, messages: Sequence[bytes], seconds: float) -> None:
    end, turn = time.perf_counter() + seconds, 0
    while (left := end - time.perf_counter()) > 0:
        if not callers.room.acquire(timeout=left):
            return
        turn += 1
        asked, now_ns = decode(messages[turn % len(messages)]), time.monotonic_ns()
        work = service.prepare(asked, NO_DEADLINE, callers, None, now_ns)
        service.submit(work, service.prepare, asked, NO_DEADLINE, callers, None, now_ns)
