"""What the core needs of whoever notes when single requests were where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace_server.core.request import Work
from headrace_server.core.statistics import Execution


class Tracer(Protocol):
    """Hears of every batch of a model that is traced, and picks the requests to note.

    A model has none while it is not traced, so that tracing costs nothing then.
    """

    def executed(self, works: Sequence[Work], execution: Execution) -> None:
        """Take note of requests that were executed together and have their answers.

        Called from the engine's thread, once for each execution; must not block.
        """
