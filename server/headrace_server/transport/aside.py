"""Does beside the event loop what would hold it up: reading and checking large requests.

Two threads do it, so that many large requests leave the loop its share of the interpreter. What waits for
them counts as held until it has been done, even where its caller has gone meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from headrace_server.transport.holdings import Call, Holdings

T = TypeVar("T")

_THREADS: Final = 2


class _Job(Generic[T]):
    """What is to be done, unless nobody waits for it any more."""

    __slots__ = ("_function", "has_caller")

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.has_caller = True

    def __call__(self) -> T | None:
        return self._function() if self.has_caller else None


class Aside:
    """A few threads, and what is held for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, holdings: Holdings) -> None:
        self._loop = loop
        self._holdings = holdings
        self._threads = ThreadPoolExecutor(_THREADS, "large-request")

    async def run(self, size_bytes: int, function: Callable[[], T], own_bytes: int = 0) -> T:
        """Return what the function returns, or raise what it raises; it has `size_bytes` in hand.

        `own_bytes` are held for the same request already. Raises Overloaded where too much is held.
        """
        held = Call()
        self._holdings.admit(held, size_bytes, own_bytes)
        job = _Job(function)
        done = self._loop.run_in_executor(self._threads, job)

        def release(done: asyncio.Future[T | None]) -> None:
            self._holdings.release(held)
            if not done.cancelled():
                done.exception()  # whoever waits is told; asyncio would log what nobody asked for

        done.add_done_callback(release)
        try:
            result = await asyncio.shield(done)
        except asyncio.CancelledError:
            job.has_caller = False
            raise
        return result  # type: ignore[return-value]  # None stands for a caller who has gone, and this one waits

    def close(self) -> None:
        """Let the threads end once they have done what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)
