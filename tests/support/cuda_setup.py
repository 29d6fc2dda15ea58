"""A fake GPU with two of everything, for tests of the driver itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_cuda import EAGER, LATE, FakeDriver, Order
from fake_memory import Bytes

SIZE = 64
"""Bytes of each buffer."""
ORDERS: tuple[Order, ...] = (LATE, EAGER, 1, 2)
"""Enough to tell a program that depends on one."""


@dataclass
class Setup:
    """A driver whose context is the thread's, with two of everything."""

    driver: FakeDriver
    streams: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    device: list[int] = field(default_factory=list)
    pinned: list[Bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.driver.retain()
        self.driver.push()
        for _ in range(2):
            self.streams.append(self.driver.stream())
            self.events.append(self.driver.event())
            self.device.append(self.driver.allocate(SIZE))
            self.pinned.append(self.driver.allocate_pinned(SIZE))

    def close(self) -> None:
        for stream in self.streams:
            self.driver.destroy_stream(stream)
        for event in self.events:
            self.driver.destroy_event(event)
        for address in self.device:
            self.driver.free(address)
        for memory in self.pinned:
            self.driver.free_pinned(memory)
        self.driver.pop()
        self.driver.release()

    def wait(self, stream: int) -> None:
        """Wait for all that the stream was given."""
        self.driver.record(self.events[stream], self.streams[stream])
        self.driver.synchronize(self.events[stream])

    def kernel(self, stream: int, source: int, target: int, label: str = "kernel") -> None:
        """Have a kernel write twice what it reads."""

        def compute(reads: list[Bytes], writes: list[Bytes]) -> None:
            writes[0][:] = reads[0] * 2

        self.driver.enqueue(
            self.streams[stream].handle, [(source, SIZE)], [(target, SIZE)], compute, label=label
        )


def in_another_thread(work: Callable[[], None]) -> None:
    """Raise what the work raised there."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
