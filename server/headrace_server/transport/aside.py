"""Does on other threads what would hold up a transport.

What waits for them counts as held until it has been done, even where its caller has gone meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from headrace_server.errors import ShuttingDown
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.seam import Reactor

T = TypeVar("T")


class Aside:
    """A few threads, and what is held for them."""

    def __init__(self, name: str, threads: int, reactor: Reactor, holdings: Holdings) -> None:
        """`name` is that of the threads."""
        self._reactor = reactor
        self._holdings = holdings
        self._lock = threading.Lock()
        self._is_closed = False
        self._threads = ThreadPoolExecutor(threads, name)
        self._threads.submit(_begin)  # so that there is one, if no further one can be begun some day

    def run(
        self,
        size_bytes: int,
        own_bytes: int,
        function: Callable[[Call], T],
        then: Callable[[T | Exception], None],
        is_wanted: Callable[[], bool],
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """Pass what the function returns, or raises, to `then`, where calls may be touched.

        Nothing is done once it is not wanted any more. The function has `size_bytes` in hand, and is given
        what they count to, should it make more; `own_bytes` are held for the same request already. Once they
        are in nobody's hand any more, done or not, `left` is called, by any thread. Raises Overloaded where
        too much is held, and ShuttingDown after `close`.
        """
        held = Call()
        self._holdings.admit(held, size_bytes, own_bytes)
        with self._lock:
            if self._is_closed:
                self._holdings.release(held)
                raise ShuttingDown("the server is stopping")
            # The error is that no further thread can be begun; by then this waits for those that there are.
            with contextlib.suppress(RuntimeError):
                self._threads.submit(self._do, held, function, then, is_wanted, left)

    def close(self) -> None:
        """Let the threads end once they have done what is still wanted."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=False)

    def _do(
        self,
        held: Call,
        function: Callable[[Call], T],
        then: Callable[[T | Exception], None],
        is_wanted: Callable[[], bool],
        left: Callable[[], None],
    ) -> None:
        result: T | Exception
        try:
            if not is_wanted():
                return
            result = function(held)
        except Exception as error:  # whoever waits tells the caller
            result = error
        finally:
            self._holdings.release(held)
            left()
        if is_wanted():
            self._reactor.run(then, result)
        del result  # an error knows this frame, and what it was about


def _begin() -> None:
    """Do nothing, on a thread that goes on."""
