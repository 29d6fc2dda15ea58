"""Makes an engine usable again after an error on its device has spoilt it, or finds that it will not be."""

from __future__ import annotations

import logging
import time
from typing import Final

from headrace_engines.engine import Engine
from headrace_engines.errors import DeviceError, EngineError, EngineSpoilt
from headrace_server.core.worker import staging

_logger = logging.getLogger(__name__)

_MOST: Final = 10
"""In succession, without an answer between them: what is spoilt again and again will not answer.

A batch that spoils the engine is executed twice, so these are five such batches."""


class Renewal:
    """Renews one engine. Belongs to its thread, but for `since_ns`."""

    def __init__(self, model: str, engine: Engine) -> None:
        self._model = model
        self._engine = engine
        self._count = 0
        """Since the last answer."""
        self.since_ns = 0
        """Since when the engine is being made anew, on the monotonic clock; 0 while it is not."""

    def answered(self) -> None:
        """Hear that the engine has answered."""
        self._count = 0

    def renew(self, spoilt: EngineSpoilt) -> list[list[memoryview]]:
        """Make the engine anew, and return its staging buffers: see `staging`.

        Raises DeviceError if it will not be usable again.
        """
        device = self._engine.device
        if device is None:
            raise DeviceError(f"the engine cannot be made anew: {spoilt}") from spoilt
        begun_ns = self.since_ns = time.monotonic_ns()
        while True:
            self._count += 1
            if self._count > _MOST:
                raise DeviceError(f"spoilt {self._count} times without an answer: {spoilt}") from spoilt
            _logger.warning("model %s: the engine is made anew in a fresh context: %s", self._model, spoilt)
            try:
                device.renew()
                buffers = staging(self._engine)
                break
            except EngineSpoilt as again:  # by another engine on its device
                spoilt = again
            except DeviceError:
                raise
            except EngineError as error:
                raise DeviceError(f"the engine cannot be made anew: {error}") from error
        self.since_ns = 0
        seconds = (time.monotonic_ns() - begun_ns) * 1e-9
        _logger.info("model %s: the engine answers again after %.1f s", self._model, seconds)
        return buffers
