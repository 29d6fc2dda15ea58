"""Which worker an engine has."""

from __future__ import annotations

from typing import Protocol

from headrace_engines.engine import Engine
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.steps import StepEngine
from headrace_server.core.device_worker import DeviceWorker
from headrace_server.core.model import Model
from headrace_server.core.steps_worker import StepsWorker
from headrace_server.core.worker import Worker


class EngineWorker(Protocol):
    """Whoever executes a model's batches on one instance of its engine, in a thread of its own."""

    def start(self) -> None:
        """Begin to execute."""

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the thread has ended and the engine is closed, or given up; return whether it has."""


def worker_for(model: Model, engine: Engine | StepEngine, instance: int) -> EngineWorker:
    """Return the worker for one of the model's engines, which are numbered from 0.

    Raises UnsupportedModelError where the model is to have sequences, and keeps nothing for them.
    """
    if isinstance(engine, StepEngine):
        return StepsWorker(model, engine, instance)
    if model.facts.settings.sequences is not None:
        raise UnsupportedModelError(
            "sequences need a program (model.py), which keeps their state; this model runs on "
            f"{engine.platform}"
        )
    if engine.slots > 1 or engine.device is not None:
        return DeviceWorker(model, engine, instance)
    return Worker(model, engine, instance)
