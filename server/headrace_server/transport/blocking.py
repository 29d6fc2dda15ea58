"""Procedures that take their time are done on threads of their own, and never hold up a transport."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from headrace_server.errors import ShuttingDown
from headrace_server.transport.seam import Reactor

_THREADS: Final = 256
"""Begun as they are needed. Most of them wait for a model's turn to load, or for its drain; what comes beyond
that waits for one of them, even if it would be quick."""

_Answer = Callable[[bytes | Exception], None]


class BlockingCalls:
    """The calls that are being done."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._threads = ThreadPoolExecutor(_THREADS, "control")
        self._lock = threading.Lock()
        self._waiting: set[_Answer] = set()
        self._ended = False

    def run(self, function: Callable[[], bytes], answer: _Answer) -> None:
        """Pass what the function returns, or raises, to `answer`, where calls may be touched; once.

        A caller who goes does not end the function. Raises ShuttingDown once `end` was called.
        """
        with self._lock:
            if self._ended:
                raise ShuttingDown("the server is stopping")
            self._waiting.add(answer)
            self._threads.submit(self._do, function, answer)

    def end(self) -> None:
        """Let everybody go who waits. What is being done goes on; what was not begun never is."""
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for answer in waiting:
            told = ShuttingDown("the server is stopping, and does not wait for this to be done")
            self._reactor.run(answer, told)

    def _do(self, function: Callable[[], bytes], answer: _Answer) -> None:
        result: bytes | Exception
        try:
            result = function()
        except Exception as error:  # the table of statuses decides what leaves
            result = error
        with self._lock:
            is_awaited = answer in self._waiting
            self._waiting.discard(answer)
        if is_awaited:
            self._reactor.run(answer, result)
        del result  # an error knows this frame, and what it was about
