"""How whoever waits for long work is told how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Is told what the work is doing."""

    def __call__(self, step: str, fraction: float) -> None:
        """`step` begins, in words; `fraction` of the whole, 0 to 1, is done."""


class Stages:
    """Announces each step of some work and remembers the seconds that it took, by its words."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str, fraction: float) -> Iterator[None]:
        """Do a step inside the block; one that comes again adds its seconds."""
        self._progress(step, fraction)
        start = time.perf_counter()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - start, 3)
