"""The thread that one engine instance belongs to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from headrace_engines.errors import DeviceError
from headrace_server.core.executing import Executing, Look
from headrace_server.core.model import Model
from headrace_server.core.request import Work

_logger = logging.getLogger(__name__)


class Closeable(Protocol):
    """An engine, as far as its thread ends it."""

    def close(self) -> None:
        """Give back what the engine holds."""


class EngineThread:
    """Serves until the model is closed and drained, then closes the engine.

    Whatever else ends it loses the model: what is in hand is answered with DeviceLost.
    """

    def __init__(
        self,
        model: Model,
        engine: Closeable,
        instance: int,
        serve: Callable[[], None],
        give_up: Callable[[], list[Work]],
        look: Look,
        gpu: int | None = None,
    ) -> None:
        """`give_up` lets go of the work that was taken and has no answer, and returns it.

        `look` tells the model what is being executed. With the index of a `gpu`, both may be called from any
        thread, and what is done with the engine may never end.
        """
        self._model = model
        self._engine = engine
        self._serve = serve
        self._give_up = give_up
        self._instance = instance
        self._look = look
        self.gpu = gpu
        self._has_ended = threading.Event()
        """Or is not to be waited for."""
        name = f"engine-{model.facts.name}-{model.facts.version}-{instance}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the thread has ended and the engine is closed, or given up; return whether it has."""
        return self._has_ended.wait(timeout_seconds)

    def look(self) -> Executing | None:
        """Return what is being executed: see `Instance.look`."""
        return self._look()

    def give_up(self) -> list[Work]:
        """Let go of what is in hand: see `Instance.give_up`."""
        works = self._give_up()
        self._has_ended.set()
        return works

    def execute(self, step: Callable[[], None]) -> None:
        """Do something with the engine; what that raises loses the model. For whoever has the engine."""
        try:
            step()
        except DeviceError as error:
            _logger.critical("model %s is lost: %s", self._model.facts.name, error)
            self._model.lose(str(error), self._give_up(), self.gpu)
        except BaseException:  # an exit, too, would end the thread alone, and nobody would hear of it
            _logger.critical("model %s: its worker stopped", self._model.facts.name, exc_info=True)
            self._model.lose("its worker stopped", self._give_up())

    def _run(self) -> None:
        self._model.instances.attach(self._instance, self)
        try:
            self.execute(self._serve)
        finally:
            self._model.instances.detach(self._instance)
            self._close()
            self._has_ended.set()

    def _close(self) -> None:
        try:
            self._engine.close()
        except BaseException:  # as above
            _logger.exception("model %s: its engine could not be closed", self._model.facts.name)
