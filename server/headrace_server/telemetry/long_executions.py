"""Warns of an execution that goes on for long: a program that hangs raises nothing, and answers nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from headrace_server.core.catalogue import Catalogue

_logger = logging.getLogger(__name__)

_AFTER_SECONDS: Final = 30.0
_EVERY_SECONDS: Final = 5.0


class LongExecutions:
    """Looks at what all models execute, and tells of each execution once."""

    def __init__(self, catalogue: Catalogue, after_seconds: float = _AFTER_SECONDS) -> None:
        """`after_seconds` without an answer make an execution long."""
        self._catalogue = catalogue
        self._after_seconds = after_seconds
        self._told: set[tuple[int, int, int]] = set()

    async def watch(self, every_seconds: float = _EVERY_SECONDS) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            self.look()

    def look(self) -> None:
        """Warn of the executions that have become long since the last look."""
        now_ns = time.monotonic_ns()
        long: set[tuple[int, int, int]] = set()
        for model in self._catalogue.ready():
            facts = model.facts
            for one in model.instances.executing():
                seconds = (now_ns - one.since_ns) * 1e-9
                if seconds < self._after_seconds:
                    continue
                key = (facts.serial, one.instance, one.since_ns)
                long.add(key)
                if key not in self._told:
                    doing = "is being made anew" if one.is_renewal else "has executed"
                    _logger.warning(
                        "model %s version %s: instance %d %s for %.0f s without an answer, "
                        "with %d requests in hand; %d wait",
                        facts.name, facts.version, one.instance, doing, seconds, one.requests, model.waiting,
                    )  # fmt: skip
        self._told = long
