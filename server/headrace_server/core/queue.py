"""What a model needs of whatever holds the work that waits for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from headrace_server.core.request import Work

NEVER: Final = math.inf


class QueueFull(Exception):
    """A limit of the queue would be passed; `rows` are those that wait before work of that kind."""

    def __init__(self, message: str, rows: int) -> None:
        super().__init__(message)
        self.rows = rows


class Taken(NamedTuple):
    """What a queue gave when it was asked for a batch; all of it has left the queue."""

    batch: list[Work]
    missed: list[Work]
    """Work whose deadline has passed, for the taker to answer."""
    again_at: float = NEVER
    """When to ask again though nothing has happened, on the monotonic clock in seconds."""
    orphans: Sequence[Work] = ()
    """Work that cannot be executed because what it depends on was missed, for the taker to answer."""


class Queue(Protocol):
    """What a model needs of whatever holds its waiting work. The model serialises access."""

    @property
    def requests(self) -> int:
        """Requests that wait."""

    @property
    def rows(self) -> int:
        """Rows of the requests that wait."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the requests that wait."""

    def push(self, work: Work) -> None:
        """Let the work wait. Raises QueueFull, or an InferenceError where it can never be executed."""

    def discard(self, work: Work) -> Sequence[Work]:
        """End work that still waits; its place is free at once.

        Returns what cannot be executed without it, which has left the queue as well.
        """

    def take(self, max_rows: int, now: float, *, instance: int = 0, hurry: bool = False) -> Taken:
        """Remove the next batch for this instance of the engine, which is free.

        The batch holds at most `max_rows` rows, or one request. It may be empty though something waits:
        for a larger batch, unless in a `hurry` because nothing more will come, or for another instance.
        """

    def finished(self, works: Iterable[Work], now: float) -> None:
        """Hear that an instance is done with work that it had taken, with whatever outcome."""

    def clear(self) -> list[Work]:
        """Remove and return everything that waits."""
