"""A GPU as the parts that measure it bare use it: what they make on it is freed in the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from headrace_engines.runtime.cuda.driver import Bytes, Driver, Stream

_WARM_UP: Final = 3
_FEWEST: Final = 5
_MOST: Final = 1000


class Device:
    """The driver, with the context pushed, and what was made through it."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._made = contextlib.ExitStack()

    def close(self) -> None:
        """Free all that was made, in the opposite order."""
        self._made.close()

    def memory(self, size_bytes: int) -> int:
        """Return the address of memory on the GPU."""
        address = self.driver.allocate(size_bytes)
        self._made.callback(self.driver.free, address)
        return address

    def pinned(self, size_bytes: int) -> Bytes:
        """Return pinned memory of the host."""
        memory = self.driver.allocate_pinned(size_bytes)
        self._made.callback(self.driver.free_pinned, memory)
        return memory

    def stream(self) -> Stream:
        """Return a stream."""
        stream = self.driver.stream()
        self._made.callback(self.driver.destroy_stream, stream)
        return stream

    def event(self) -> Any:
        """Return an event."""
        event = self.driver.event()
        self._made.callback(self.driver.destroy_event, event)
        return event

    def microseconds(self, stream: Stream, work: Callable[[], None], seconds: float) -> tuple[float, float]:
        """Return what `work` takes on the GPU each time, by events, and what it takes to put into the stream.

        It is done over and over for about `seconds`.
        """
        begun, done = self.event(), self.event()
        count = self._count(stream, work, done, seconds)
        self.driver.record(begun, stream)
        at = time.perf_counter()
        for _ in range(count):
            work()
        host = (time.perf_counter() - at) / count
        self.driver.record(done, stream)
        self.driver.synchronize(done)
        return self.driver.milliseconds(begun, done) * 1000 / count, host * 1e6

    def _count(self, stream: Stream, work: Callable[[], None], done: Any, seconds: float) -> int:
        """Warm up, and return how often the work fits into the time."""
        at = 0.0
        for number in range(2 * _WARM_UP):
            if number == _WARM_UP:
                self.driver.record(done, stream)
                self.driver.synchronize(done)
                at = time.perf_counter()
            work()
        self.driver.record(done, stream)
        self.driver.synchronize(done)
        once = (time.perf_counter() - at) / _WARM_UP
        return max(_FEWEST, min(_MOST, round(seconds / max(once, 1e-7))))
