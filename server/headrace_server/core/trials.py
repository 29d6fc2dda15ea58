"""Finds which batch spoils a GPU's context: those that may have done it are executed again, one at a time.

An error that spoils the context is told to every engine that has a batch there, and not whose batch it was.
So none is blamed for the first time. While batches of a GPU are on trial, its engines execute in turn,
whatever they execute: what is spoilt then is the work of the one batch that was in the air.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Party(Protocol):
    """Who executes batches on the GPU, known by its identity."""

    @property
    def has_batch(self) -> bool:
        """Whether a batch of the party is being executed, or was when the context was spoilt."""


class Trials:
    """Whose turn it is on one GPU while batches are on trial there. Any thread may call it."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._parties: set[Party] = set()
        self._suspects: set[Party] = set()
        self._turns: deque[Party] = deque()

    @property
    def are_on(self) -> bool:
        """Whether anybody is suspected, so that nothing is executed out of turn."""
        return bool(self._suspects)

    def join(self, party: Party) -> None:
        """Hear of a party before it executes anything."""
        with self._changed:
            self._parties.add(party)

    def leave(self, party: Party) -> None:
        """Forget a party that executes nothing any more."""
        with self._changed:
            self._parties.discard(party)
            self._suspects.discard(party)
            self._turns = deque(other for other in self._turns if other is not party)
            self._changed.notify_all()

    def suspect(self) -> None:
        """Suspect whoever has a batch; to be called before anything is executed in a fresh context."""
        with self._changed:
            self._suspects.update([party for party in self._parties if party.has_batch])

    def acquit(self, party: Party) -> None:
        """Hear that the party has no batch any more that may have spoilt the context."""
        with self._changed:
            self._suspects.discard(party)

    def take_turn(self, party: Party, check: Callable[[], None]) -> None:
        """Wait until it is the party's turn, which it has until `give_turn`; whoever asks first has it first.

        `check` is called before each wait, and after `wake`; what it raises ends the waiting.
        """
        with self._changed:
            self._turns.append(party)
            try:
                while self._turns[0] is not party:
                    check()
                    self._changed.wait()
            except BaseException:
                self._end_turn(party)
                raise

    def give_turn(self, party: Party) -> None:
        """Let the next have its turn."""
        with self._changed:
            self._end_turn(party)

    def wake(self) -> None:
        """Have those that wait check whether they still want to."""
        with self._changed:
            self._changed.notify_all()

    def _end_turn(self, party: Party) -> None:
        self._turns.remove(party)
        self._changed.notify_all()


@functools.cache
def trials_on(gpu: int) -> Trials:
    """Return the trials of this GPU, which all that executes there shares."""
    return Trials()
