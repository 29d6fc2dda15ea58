"""Procedures that take their time are done on threads of their own, and never hold up a transport.

What nobody waits for any more and was not begun never is, and what waits for a model's turn can ask.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from headrace_server.core.catalogue import IsWanted
from headrace_server.errors import InferenceError, Overloaded, ShuttingDown
from headrace_server.transport.aside import Aside
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.seam import Reactor, UnaryCall
from headrace_server.transport.status import status_of

_MOST_CALLS: Final = 256
"""Enough for every model of a large repository; what each has in hand is bounded beside that."""

Function: TypeAlias = Callable[[Call, IsWanted], bytes]
"""Returns an answer; given what its request counts to, should it make more, and whether the caller waits."""


class _Job:
    """What is being done for one call."""

    __slots__ = ("_has_caller", "call")

    def __init__(self, call: UnaryCall) -> None:
        self.call = call
        self._has_caller = True
        call.on_end = self.leave

    def is_wanted(self) -> bool:
        return self._has_caller

    def leave(self) -> None:
        """Hear that nobody waits any more."""
        self._has_caller = False

    def answer(self, result: bytes | Exception) -> None:
        if isinstance(result, bytes):
            self.call.answer(result)
        else:
            self.call.fail(status_of(result))


class BlockingCalls:
    """The calls of one kind that are being done, or wait for a thread."""

    def __init__(self, what: str, threads: int, reactor: Reactor, holdings: Holdings) -> None:
        """`what` the calls are, in words, and how many of them are done beside each other."""
        self._what = what
        self._reactor = reactor
        self._aside = Aside("control", threads, reactor, holdings)
        self._lock = threading.Lock()
        self._jobs: set[_Job] = set()

    def run(self, call: UnaryCall, function: Function, size_bytes: int) -> None:
        """Answer the call with what the function returns, or raises; it has `size_bytes` in hand.

        A caller who goes does not end what was begun. Raises Overloaded where too much is held, or is being
        done, and ShuttingDown once `end` was called.
        """
        job = _Job(call)
        left = functools.partial(self._left, job)
        with self._lock:
            if len(self._jobs) >= _MOST_CALLS:
                told = f"{len(self._jobs)} {self._what} are being done, which is the limit"
                raise Overloaded(told)
            self._jobs.add(job)
        try:
            self._aside.run(
                size_bytes, 0, lambda held: function(held, job.is_wanted), job.answer, job.is_wanted, left
            )
        except InferenceError:
            left()
            raise

    def end(self) -> None:
        """Let everybody go who waits. What is being done goes on; what was not begun never is."""
        self._aside.close()
        with self._lock:
            jobs = tuple(self._jobs)
        told = status_of(ShuttingDown("the server is stopping, and does not wait for this to be done"))
        for job in jobs:
            job.leave()
            self._reactor.run(job.call.fail, told)

    def _left(self, job: _Job) -> None:
        with self._lock:
            self._jobs.discard(job)
