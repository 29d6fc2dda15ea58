"""Procedures that take their time are done on threads of their own, so that they never hold up the loop.

What such a call has in hand counts as held until it is done, even where its caller has gone meanwhile: what
nobody waits for any more and was not begun never is, and what waits for a model's turn can ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

from headrace_server.core.catalogue import IsWanted
from headrace_server.errors import DeadlineMissed, Overloaded, ShuttingDown
from headrace_server.transport.holdings import Call, Holdings

T = TypeVar("T")

_MOST_CALLS: Final = 256
"""Enough for every model of a large repository; what each has in hand is bounded beside that."""


class _Job(Generic[T]):
    """What is to be done, unless nobody waits for it any more."""

    __slots__ = ("_function", "has_caller")

    def __init__(self, function: Callable[[IsWanted], T]) -> None:
        self._function = function
        self.has_caller = True

    def __call__(self) -> T:
        if not self.has_caller:
            raise DeadlineMissed("whoever asked had gone before it was begun")
        return self._function(lambda: self.has_caller)


class BlockingCalls:
    """The calls of one kind that are being done, or wait for a thread."""

    def __init__(self, what: str, threads: int, holdings: Holdings) -> None:
        """`what` the calls are, in words, and how many of them are done beside each other."""
        self._what = what
        self._holdings = holdings
        self._threads = ThreadPoolExecutor(threads, "control")
        self._count = 0
        self._ended = asyncio.Event()

    async def run(self, function: Callable[[IsWanted], T], size_bytes: int) -> T:
        """Return what the function returns, or raise what it raises, or ShuttingDown once `end` was called.

        It has `size_bytes` in hand. A caller who goes does not end what was begun; the function is given
        what tells whether the caller still waits. Raises Overloaded where too much is held, or is being done.
        """
        self._check()
        held = Call()
        self._holdings.admit(held, size_bytes)
        self._count += 1
        job = _Job(function)
        done = asyncio.get_running_loop().run_in_executor(self._threads, job)

        def leave(done: asyncio.Future[T]) -> None:
            self._count -= 1
            self._holdings.release(held)
            if not done.cancelled():
                done.exception()  # whoever waits is told; asyncio would log what nobody asked for

        done.add_done_callback(leave)
        ended = asyncio.create_task(self._ended.wait())
        either: set[asyncio.Future[Any]] = {done, ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            job.has_caller = False
        if not done.done():
            raise ShuttingDown("the server is stopping, and does not wait for this to be done")
        return done.result()

    def end(self) -> None:
        """Let everybody go who waits. What is being done goes on; what was not begun never is."""
        self._ended.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._ended.is_set():
            raise ShuttingDown("the server is stopping")
        if self._count >= _MOST_CALLS:
            raise Overloaded(f"{self._count} {self._what} are being done, which is the limit")
