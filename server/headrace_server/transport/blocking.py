"""Procedures that take their time are done on threads of their own, so that they never hold up the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from headrace_server.errors import ShuttingDown

T = TypeVar("T")

_THREADS: Final = 256
"""Begun as they are needed. Most of them wait for a model's turn to load, or for its drain; what comes beyond
that waits for one of them, even if it would be quick."""


class BlockingCalls:
    """The calls that are being done."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "control")
        self._ended = asyncio.Event()

    async def run(self, function: Callable[[], T]) -> T:
        """Return what the function returns, or raise what it raises, or ShuttingDown once `end` was called.

        A caller who goes does not end the function.
        """
        if self._ended.is_set():
            raise ShuttingDown("the server is stopping")
        done = asyncio.get_running_loop().run_in_executor(self._threads, function)
        ended = asyncio.create_task(self._ended.wait())
        either: set[asyncio.Future[Any]] = {done, ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            done.add_done_callback(_take_note)
        if not done.done():
            raise ShuttingDown("the server is stopping, and does not wait for this to be done")
        return done.result()

    def end(self) -> None:
        """Let everybody go who waits. What is being done goes on; what was not begun never is."""
        self._ended.set()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _take_note(done: asyncio.Future[T]) -> None:
    """Look at an error that nobody waits for any more, of which asyncio would complain."""
    if not done.cancelled():
        done.exception()
