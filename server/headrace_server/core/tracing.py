"""What the core needs of whoever notes when single requests were where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace_server.core.request import Work
from headrace_server.core.statistics import Execution


class Tracer(Protocol):
    """Hears of every batch of a model that is traced, and picks the requests to note. A model has none
    while it is not traced, so that tracing costs nothing then."""

    def executed(self, works: Sequence[Work], execution: Execution, ended_ns: int) -> None:
        """Take note of a batch whose answers were ready at `ended_ns` of the monotonic clock.

        The execution's durations lead back from there to its beginning. Called from the engine's thread,
        once a batch; must not block.
        """
