"""Notices that a GPU is gone, by an engine's word or because an execution never ends, and acts on it once.

Everything on that GPU is given up together: its callers are answered, though engines' threads may be stuck in
the driver, and its models say that they are lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from headrace_server.core.executing import Executing
from headrace_server.core.model import Model

_logger = logging.getLogger(__name__)

LONGEST_RENEWAL_SECONDS: Final = 600.0
"""An engine that is made anew loads its model again, and waits for whatever else is loaded on the GPU."""


class GpuWatchdog:
    """Looks at what all models execute on GPUs. Belongs to one thread."""

    def __init__(
        self,
        models: Callable[[], Sequence[Model]],
        longest_seconds: float,
        declare_lost: Callable[[int, str], None],
    ) -> None:
        """`models` are all that have engines, also those that answer their last requests.

        An execution on a GPU that is older than `longest_seconds` is believed never to end; 0 looks at none.
        Making an engine anew is no execution, and may take LONGEST_RENEWAL_SECONDS, or that if it is longer.
        `declare_lost` is told each GPU that is gone, with the reason; it must not block.
        """
        self._models = models
        self._longest_seconds = longest_seconds
        self._declare_lost = declare_lost
        self.lost: dict[int, str] = {}
        """Why each GPU is gone, by its index."""

    def look(self) -> None:
        """Have everything give up that runs on a GPU which is gone by now.

        What was declared before is looked at again: an engine may have begun to serve there since.
        """
        models = self._models()
        for model in models:
            self._look_at(model)
        for gpu, reason in self.lost.items():
            for model in models:
                model.lose_gpu(gpu, reason)

    def _look_at(self, model: Model) -> None:
        gpu, reason = model.lost_gpu, model.lost
        if gpu is not None and reason is not None:
            self._lose(gpu, reason)
        if not self._longest_seconds:
            return
        now_ns = time.monotonic_ns()
        for one in model.instances.executing():
            seconds = (now_ns - one.since_ns) * 1e-9
            if one.gpu is not None and seconds > self._most_seconds(one):
                facts = model.facts
                doing = "has been made anew" if one.is_renewal else "has executed"
                what = f"model {facts.name!r} version {facts.version} {doing} on GPU {one.gpu}"
                self._lose(one.gpu, f"{what} for {seconds:.1f} s without an answer")

    def _most_seconds(self, one: Executing) -> float:
        return (
            max(self._longest_seconds, LONGEST_RENEWAL_SECONDS) if one.is_renewal else self._longest_seconds
        )

    def _lose(self, gpu: int, reason: str) -> None:
        if gpu not in self.lost:
            _logger.critical("GPU %d is taken for lost: %s", gpu, reason)
            self.lost[gpu] = reason
            self._declare_lost(gpu, reason)
