"""What one engine holds in a GPU's context: memory, streams, events, graphs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.cuda.driver import Bytes, CudaError, Driver, Fault, Stream
from headrace_engines.runtime.cuda.memory import is_shortage
from headrace_engines.runtime.lifetimes import let_go

_log = logging.getLogger(__name__)


class Holdings:
    """Gives back what it made, the last first. Every call is made inside `Gpu.use`.

    With its context all of it goes, and then nothing is to be given back.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._given: list[Callable[[Driver], None]] = []
        self._graphs: list[Any] = []
        self.device_bytes = 0
        """How much of the GPU's memory is held, with what libraries take for batches as far as it is seen."""

    def memory(self, size_bytes: int) -> int:
        """Return the address of memory on the GPU. Raises MemoryExhausted."""
        address = self._gpu.memory.allocate(max(size_bytes, 1))
        self.device_bytes += size_bytes
        self._given.append(lambda driver: self._gpu.memory.free(address))
        return address

    @contextlib.contextmanager
    def counting(self, driver: Driver, give_back: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Count what a library takes of the GPU's memory in the block: by how much less is free after it.

        What others take at that moment is counted, too. Raises MemoryExhausted if the pool's bound does not
        allow as much. Where memory does not suffice, the caller is to `give_back` what it can; what the
        library keeps then, as an arena does, is counted whatever the bound.
        """
        before = driver.free_bytes()
        try:
            yield
            self._claim(before - driver.free_bytes(), is_bounded=True)
        except (MemoryExhausted, CudaError) as error:
            if not is_shortage(error):
                raise
            let_go(error)  # what a library has made ends here, where the GPU's context is
            give_back()
            self._claim(before - driver.free_bytes(), is_bounded=False)
            raise

    def pinned(self, size_bytes: int) -> Bytes:
        """Return pinned memory of the host. Raises MemoryExhausted."""
        memory = self._gpu.memory.allocate_pinned(max(size_bytes, 1))
        self._given.append(lambda driver: self._gpu.memory.free_pinned(memory))
        return memory[:size_bytes]

    def twin(self, host: Bytes, address: int) -> None:
        """Have it known that pinned memory gets its bytes from this address."""
        twins = self._gpu.twins
        twins.add(host, self._gpu.generation, address)
        self._given.append(lambda driver: twins.remove(host))

    def stream(self, driver: Driver) -> Stream:
        """Return a stream."""
        stream = driver.stream()
        self._given.append(lambda driver: driver.destroy_stream(stream))
        return stream

    def event(self, driver: Driver) -> Any:
        """Return an event."""
        event = driver.event()
        self._given.append(lambda driver: driver.destroy_event(event))
        return event

    def graph(self, graph: Any) -> Any:
        """Take over a graph."""
        self._graphs.append(graph)
        return graph

    def destroy_graph(self, driver: Driver, graph: Any) -> None:
        """Give a graph back before the rest."""
        self._graphs.remove(graph)
        driver.destroy_graph(graph)

    def close(self, driver: Driver) -> None:
        """Give everything back. Raises CudaError if the context or the device has gone, and all with it."""
        while self._graphs or self._given:
            try:
                if self._graphs:
                    driver.destroy_graph(self._graphs.pop())
                else:
                    self._given.pop()(driver)
            except CudaError as error:
                if error.fault not in (Fault.CALL, Fault.MEMORY):
                    raise
                _log.warning("something that was held on the GPU could not be given back: %s", error)

    def _claim(self, size_bytes: int, *, is_bounded: bool) -> None:
        if size_bytes > 0:
            claim = self._gpu.memory.claim(size_bytes, is_bounded=is_bounded)
            self.device_bytes += size_bytes
            self._given.append(lambda driver: self._gpu.memory.disclaim(claim))
