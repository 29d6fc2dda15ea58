"""The worker over a real engine for GPUs, on a fake GPU: what clients get while it is spoilt, held and lost.

The plan adds 1. The fake driver fails the test where something is used too early, or is not given back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import EAGER, LATE, FakeDriver, Order, fake_gpu
from fake_tensorrt import library, plan_of
from hosted_server import eventually
from onnx_models import Models
from scripted_engines import PATIENCE_SECONDS, Answers, Shelf, infer

from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.tensorrt.engine import TensorRtEngine
from headrace_server.core.gpu_watchdog import GpuWatchdog
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import InputTensor, Request
from headrace_server.core.service import Service
from headrace_server.core.workers import worker_for
from headrace_server.errors import DeviceLost

ILLEGAL = "CUDA_ERROR_ILLEGAL_ADDRESS"
LARGEST = 4


class Inspected(TensorRtEngine):
    """Has the fake driver look at what the worker writes and reads."""

    watched: FakeDriver

    def submit(self, slot: int, rows: int) -> None:
        for buffer in self.inputs(slot):
            self.watched.inspect(buffer[:rows], writing=True)
        super().submit(slot, rows)

    def wait(self, slot: int) -> tuple[np.ndarray[Any, Any], ...]:
        outputs = super().wait(slot)
        for output in outputs:
            self.watched.inspect(output)
        return outputs


@pytest.fixture(scope="module")
def plan(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plan_of(models.adding(1), tmp_path_factory.mktemp("plans"), batches=[(1, 8, 8)])


class Served:
    """A model on the fake GPU, with its callers."""

    def __init__(self, name: str, plan: Path, driver: FakeDriver, gpu: Gpu) -> None:
        self.engine = Inspected(plan, library=library(driver), gpu=gpu, max_batch_size=LARGEST)
        self.engine.watched = driver
        self.model = Model(name, "1", self.engine.spec, self.engine.platform, Limits())
        self.service = Service(Shelf(self.model))
        self.answers = Answers()
        self.worker = worker_for(self.model, self.engine, 0)

    def ask(self, *values: int) -> None:
        """Ask for a row of three of each value, by the value."""
        for value in values:
            data = np.full((1, 3), value, np.float32).tobytes()
            request = Request(self.model.facts.name, "", "", [InputTensor("x", "FP32", (1, 3), data)])
            infer(self.service, request, self.answers, value)

    def outcomes(self, *values: int) -> list[str]:
        """Return how each was answered, once all are; rows have to be right."""
        return [self._outcome(value) for value in values]

    def _outcome(self, value: int) -> str:
        (answer,) = self.answers.wait_for(value)
        assert len(self.answers.by_key[value]) == 1
        if not isinstance(answer, bytes):
            return type(answer).__name__
        assert np.frombuffer(answer, np.float32).tolist() == [value + 1.0] * 3
        return "rows"


@contextmanager
def serving(plan: Path, driver: FakeDriver, *names: str) -> Iterator[list[Served]]:
    """Serve these models on one GPU, and end them; the driver has the last word."""
    gpu = fake_gpu(driver)
    models = []
    for place, name in enumerate(names):
        assert not place or gpu.share()
        models.append(Served(name, plan, driver, gpu))
    yield models
    for one in models:
        one.model.close(drain=True)
    for one in models:
        assert one.worker.join(PATIENCE_SECONDS)


def started(served: Served, *values: int) -> None:
    """Have these wait, then begin to execute."""
    served.ask(*values)
    served.worker.start()


@pytest.mark.parametrize("order", [LATE, EAGER, 7])
def test_many_batches_are_answered_with_their_own_rows(plan: Path, order: Order) -> None:
    values = range(50)
    with FakeDriver(order) as driver, serving(plan, driver, "m") as (served,):
        started(served, *values)
        assert served.outcomes(*values) == ["rows"] * 50
        figures = served.model.snapshot()
        assert figures.on_device.count == figures.execution_count
        assert figures.on_device.infer_ns > 0


def test_a_kernel_that_spoils_the_context_once_fails_nobody(plan: Path) -> None:
    values = range(4 * LARGEST)
    with FakeDriver() as driver, serving(plan, driver, "m") as (served,):
        driver.fail("kernel", ILLEGAL)
        started(served, *values)
        assert served.outcomes(*values) == ["rows"] * len(values)
        assert served.model.lost is None
        assert served.engine._gpu.generation == 2


def test_models_beside_the_one_whose_kernel_spoils_the_context_answer_all_the_same(plan: Path) -> None:
    values = range(3 * LARGEST)
    with FakeDriver() as driver, serving(plan, driver, "culprit", "beside") as (culprit, beside):
        driver.fail("kernel", ILLEGAL)
        started(culprit, *values)
        started(beside, *values)
        assert culprit.outcomes(*values) == beside.outcomes(*values) == ["rows"] * len(values)
        assert culprit.engine._gpu.generation == 2


def test_invariant_8_a_gpu_that_is_lost_answers_everything_at_once(plan: Path) -> None:
    values = range(3 * LARGEST)
    with FakeDriver() as driver, serving(plan, driver, "m", "idle") as (served, idle):
        idle.worker.start()
        watchdog = GpuWatchdog(lambda: [served.model, idle.model], 0, lambda *_: None)
        driver.lose()
        started(served, *values)
        assert served.outcomes(*values) == [DeviceLost.__name__] * len(values)
        eventually(lambda: served.model.lost_gpu == 0, "the model says so")
        watchdog.look()
        assert idle.model.lost is not None, "nobody has asked it"


def test_invariant_8_a_gpu_whose_fresh_context_does_not_work_is_lost(plan: Path) -> None:
    values = range(3 * LARGEST)
    with FakeDriver() as driver, serving(plan, driver, "m") as (served,):
        driver.fail("kernel", ILLEGAL)
        driver.fail("reset", ILLEGAL)
        started(served, *values)
        assert served.outcomes(*values) == [DeviceLost.__name__] * len(values)
        assert served.model.lost_gpu == 0


def test_invariant_1_a_kernel_that_never_ends_keeps_nobody_waiting(plan: Path) -> None:
    values = range(3 * LARGEST)
    with FakeDriver() as driver, serving(plan, driver, "m") as (served,):
        declared: list[int] = []
        watchdog = GpuWatchdog(lambda: [served.model], 1e-9, lambda gpu, _: declared.append(gpu))
        driver.hold()
        started(served, *values)
        eventually(lambda: bool(served.model.instances.executing()), "a batch is executed")
        watchdog.look()
        assert served.outcomes(*values) == [DeviceLost.__name__] * len(values)
        assert declared == [0]
        assert served.worker.join(0), "nobody waits for the thread"
        served.engine._gpu.declare_lost("its kernel never ends")
        driver.let_go()
