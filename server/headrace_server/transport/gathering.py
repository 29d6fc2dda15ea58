"""Lets requests that arrive together share a batch, without a timer.

A call that arrives alone should be executed at once. When many arrive, the transport has more of them
to read, and waking an engine for the first one costs more than executing it: the two threads then take
the interpreter from each other for every few requests. So a model's requests are held while the transport
goes on finding more, and released when it has looked a few times without another one, or a batch is full.
Looking costs an idle transport microseconds, and a busy one finds the very requests that the batch waits for.
"""

from __future__ import annotations

import time
from typing import Final

from headrace_server.core.request import Holder, Work
from headrace_server.transport.seam import Reactor

_MOST_SECONDS: Final = 0.002
"""Bounds the wait where requests keep trickling in, or the transport is busy with other things."""


class _Gathered:
    __slots__ = ("has_arrivals", "model", "open", "quiet_turns", "release_at", "rows")

    def __init__(self, model: Holder, most_seconds: float) -> None:
        self.model = model
        self.rows = 0
        self.release_at = time.monotonic() + most_seconds
        self.quiet_turns = 0
        self.has_arrivals = False
        self.open = True


class Gathering:
    """What is being held for each model. For the reactor's own thread."""

    def __init__(self, reactor: Reactor, most_seconds: float = _MOST_SECONDS) -> None:
        """What waits is released after `most_seconds` at the latest."""
        self._reactor = reactor
        self._most_seconds = most_seconds
        self._by_model: dict[int, _Gathered] = {}

    def add(self, work: Work) -> None:
        """Release the work soon: it was submitted to its model to be held."""
        facts = work.model.facts
        gathered = self._by_model.get(facts.serial)
        if gathered is None:
            gathered = self._by_model[facts.serial] = _Gathered(work.model, self._most_seconds)
            self._reactor.soon(self._turn, gathered)
        gathered.has_arrivals = True
        gathered.rows += work.rows
        if gathered.rows >= facts.spec.max_batch_size:
            self._release(gathered)

    def _turn(self, gathered: _Gathered) -> None:
        if not gathered.open:
            return
        gathered.quiet_turns = 0 if gathered.has_arrivals else gathered.quiet_turns + 1
        gathered.has_arrivals = False
        if gathered.quiet_turns >= self._reactor.quiet_turns or time.monotonic() >= gathered.release_at:
            self._release(gathered)
        else:
            self._reactor.soon(self._turn, gathered)

    def _release(self, gathered: _Gathered) -> None:
        gathered.open = False
        del self._by_model[gathered.model.facts.serial]
        gathered.model.release()
