"""Procedures that take their time are done on threads of their own, and never hold up a transport.

What such a call has in hand counts as held until it is done, even where its caller has gone meanwhile: what
nobody waits for any more and was not begun never is, and what waits for a model's turn can ask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from headrace_server.core.catalogue import IsWanted
from headrace_server.errors import Overloaded, ShuttingDown
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.seam import Reactor, UnaryCall
from headrace_server.transport.status import status_of

_MOST_CALLS: Final = 256
"""Enough for every model of a large repository; what each has in hand is bounded beside that."""

Function: TypeAlias = Callable[[Call, IsWanted], bytes]
"""Returns an answer; given what its request counts to, should it make more, and whether the caller waits."""


class _Job(Call):
    """What is being done for one call, and what it has in hand."""

    __slots__ = ("_has_caller", "call")

    def __init__(self, call: UnaryCall) -> None:
        super().__init__()
        self.call = call
        self._has_caller = True
        call.on_end = self.leave

    def is_wanted(self) -> bool:
        return self._has_caller

    def leave(self) -> None:
        """Hear that nobody waits any more."""
        self._has_caller = False


class BlockingCalls:
    """The calls of one kind that are being done, or wait for a thread."""

    def __init__(self, what: str, threads: int, reactor: Reactor, holdings: Holdings) -> None:
        """`what` the calls are, in words, and how many of them are done beside each other."""
        self._what = what
        self._reactor = reactor
        self._holdings = holdings
        self._threads = ThreadPoolExecutor(threads, "control")
        self._lock = threading.Lock()
        self._jobs: set[_Job] = set()
        self._has_ended = False

    def run(self, call: UnaryCall, function: Function, size_bytes: int) -> None:
        """Answer the call with what the function returns, or raises; it has `size_bytes` in hand.

        A caller who goes does not end what was begun. Raises Overloaded where too much is held, or is being
        done, and ShuttingDown once `end` was called.
        """
        with self._lock:
            if self._has_ended:
                raise ShuttingDown("the server is stopping")
            if len(self._jobs) >= _MOST_CALLS:
                told = f"{len(self._jobs)} {self._what} are being done, which is the limit"
                raise Overloaded(told)
            job = _Job(call)
            self._holdings.admit(job, size_bytes)
            self._jobs.add(job)
            self._threads.submit(self._do, job, function)

    def end(self) -> None:
        """Let everybody go who waits. What is being done goes on; what was not begun never is."""
        with self._lock:
            self._has_ended = True
            jobs = tuple(self._jobs)
        told = status_of(ShuttingDown("the server is stopping, and does not wait for this to be done"))
        for job in jobs:
            job.leave()
            self._reactor.run(job.call.fail, told)
        self._threads.shutdown(wait=False)

    def _do(self, job: _Job, function: Function) -> None:
        result: bytes | Exception | None = None
        try:
            if job.is_wanted():
                result = function(job, job.is_wanted)
        except Exception as error:  # the table of statuses decides what leaves
            result = error
        finally:
            with self._lock:
                self._jobs.discard(job)
            self._holdings.release(job)
        if result is not None and job.is_wanted():
            self._reactor.run(_answer, job.call, result)
        del result  # an error knows this frame, and what it was about


def _answer(call: UnaryCall, result: bytes | Exception) -> None:
    if isinstance(result, bytes):
        call.answer(result)
    else:
        call.fail(status_of(result))
