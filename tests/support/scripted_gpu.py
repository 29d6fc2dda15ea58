"""Makes a server's process believe that its models whose names begin with "gpu" run on GPU 0.

They are computed by their own engines. The first element of a request's first row may be a word to the GPU.
"""

from __future__ import annotations

import threading
from typing import Any

from numpy.typing import NDArray

from headrace_engines.engine import DeviceTimes, Engine
from headrace_engines.errors import DeviceError
from headrace_engines.steps import StepEngine
from headrace_server.core.model import Model
from headrace_server.core.workers import EngineWorker, worker_for
from headrace_server.models import versions

HANG = 666.0
"""Never end."""
BREAK = 667.0
"""Fall off the bus."""


class OnGpu:
    """An engine as it would be on a GPU."""

    computes_on_caller = False
    slots = 1
    gpu = 0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.spec = engine.spec
        self.platform = engine.platform
        self.device = self

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        return self._engine.inputs(slot)

    def submit(self, slot: int, rows: int) -> None:
        self._engine.submit(slot, rows)

    def wait(self, slot: int) -> tuple[NDArray[Any], ...]:
        word = self._engine.inputs(slot)[0].flat[0]
        if word == HANG:
            threading.Event().wait()
        if word == BREAK:
            raise DeviceError("GPU 0 has fallen off the bus")
        return self._engine.wait(slot)

    def run(self, arrays: Any) -> tuple[NDArray[Any], ...]:
        return self._engine.run(arrays)

    def replicate(self) -> OnGpu:
        return OnGpu(self._engine.replicate())

    def close(self) -> None:
        self._engine.close()

    def times(self, slot: int) -> DeviceTimes:
        return DeviceTimes(1000, 2000, 3000)

    def renew(self) -> None:
        raise DeviceError("GPU 0 cannot be reset")


def install() -> None:
    """Have the process make workers for GPUs."""

    def on_gpu(model: Model, engine: Engine | StepEngine, instance: int) -> EngineWorker:
        if not isinstance(engine, StepEngine) and model.facts.name.startswith("gpu"):
            engine = OnGpu(engine)
        return worker_for(model, engine, instance)

    versions.worker_for = on_gpu  # type: ignore[attr-defined]  # there is no GPU to load anything on
