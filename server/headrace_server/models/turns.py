"""Whose turn it is to change a model: one change after the other, and nobody waits who is not waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from headrace_server.core.catalogue import IsWanted
from headrace_server.errors import DeadlineMissed

LOOK_SECONDS: Final = 0.5
"""Between looks whether whoever waits is still there."""


class _Turn:
    """Of one model; kept while somebody has it or waits for it."""

    __slots__ = ("askers", "lock")

    def __init__(self) -> None:
        self.askers = 0
        self.lock = threading.Lock()


class Turns:
    """The turns of all models, by name, and the places for those that are loaded at a time."""

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._lock = threading.Lock()
        self._turns: dict[str, _Turn] = {}

    @contextmanager
    def turn(self, name: str, is_wanted: IsWanted) -> Iterator[None]:
        """Be the only one to change the model in the block.

        Raises DeadlineMissed if nobody waits for that any more.
        """
        with self._lock:
            turn = self._turns.setdefault(name, _Turn())
            turn.askers += 1
        try:
            with _held(turn.lock, name, is_wanted):
                yield
        finally:
            with self._lock:
                turn.askers -= 1
                if not turn.askers:
                    del self._turns[name]

    @contextmanager
    def place(self, name: str, is_wanted: IsWanted) -> Iterator[None]:
        """Have the model's turn, and a place among those that are loaded, in the block. Raises as `turn`."""
        with self.turn(name, is_wanted), _held(self._places, name, is_wanted):
            yield


@contextmanager
def _held(lock: threading.Lock | threading.Semaphore, name: str, is_wanted: IsWanted) -> Iterator[None]:
    while not lock.acquire(timeout=LOOK_SECONDS):
        _check_wanted(name, is_wanted)
    try:
        _check_wanted(name, is_wanted)
        yield
    finally:
        lock.release()


def _check_wanted(name: str, is_wanted: IsWanted) -> None:
    if not is_wanted():
        raise DeadlineMissed(f"model {name!r}: whoever asked had gone before its turn came")
