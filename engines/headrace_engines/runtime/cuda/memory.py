"""The memory that this process has taken on one GPU for batches, and pinned on the host, and its count."""

from __future__ import annotations

import itertools
from typing import Final

from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.cuda.driver import Bytes, CudaError, Driver, Fault
from headrace_engines.runtime.cuda.pools import Pools


def is_shortage(error: BaseException) -> bool:
    """Whether an error of an engine or of the driver says that memory does not suffice."""
    return isinstance(error, MemoryExhausted) or (
        isinstance(error, CudaError) and error.fault is Fault.MEMORY
    )


class GpuMemory:
    """What all engines on a GPU have taken; every call but `forget` is made inside `Gpu.use` or `load`."""

    def __init__(self, driver: Driver, pools: Pools) -> None:
        self._facts: Final = driver.facts
        self._driver = driver
        self._pools = pools
        self._device: dict[int, int] = {}
        self._pinned: dict[int, int] = {}
        self._claims: dict[int, int] = {}
        self._numbers = itertools.count()

    def allocate(self, size_bytes: int) -> int:
        """Return the address of memory on the GPU, counted in the pool.

        Raises MemoryExhausted with the numbers if the pool's bound or the GPU does not allow it.
        """
        index = self._facts.index
        self._pools.take_device(index, size_bytes)
        try:
            address = self._driver.allocate(size_bytes)
        except CudaError as error:
            self._pools.give_device(index, size_bytes)
            if error.fault is Fault.MEMORY:
                raise MemoryExhausted(self._shortage(size_bytes)) from error
            raise
        self._device[address] = size_bytes
        return address

    def free(self, address: int) -> None:
        """Free what `allocate` returned in this generation."""
        self._driver.free(address)
        self._pools.give_device(self._facts.index, self._device.pop(address))

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Return pinned host memory, counted in the pool. Raises as `allocate` does."""
        self._pools.take_pinned(size_bytes)
        try:
            memory = self._driver.allocate_pinned(size_bytes)
        except CudaError as error:
            self._pools.give_pinned(size_bytes)
            if error.fault is Fault.MEMORY:
                raise MemoryExhausted(
                    f"{size_bytes} bytes of pinned host memory were asked for, and no more can be pinned: "
                    f"{self._pools.pinned_bytes()} are in use for batches ({error})"
                ) from error
            raise
        self._pinned[memory.ctypes.data] = size_bytes
        return memory

    def free_pinned(self, memory: Bytes) -> None:
        """Free what `allocate_pinned` returned in this generation."""
        self._driver.free_pinned(memory)
        self._pools.give_pinned(self._pinned.pop(memory.ctypes.data))

    def claim(self, size_bytes: int, *, is_bounded: bool = True) -> int:
        """Count memory of the GPU that a library has taken for batches; return what `disclaim` takes.

        Raises MemoryExhausted with the numbers if it `is_bounded` and the pool's bound does not allow it.
        """
        self._pools.take_device(self._facts.index, size_bytes, is_bounded=is_bounded)
        claim = next(self._numbers)
        self._claims[claim] = size_bytes
        return claim

    def disclaim(self, claim: int) -> None:
        """Count out what a library has freed in this generation."""
        self._pools.give_device(self._facts.index, self._claims.pop(claim))

    def room_bytes(self, share: float) -> int:
        """Return how much more can be taken: this share of what is free, or less if the bound says so."""
        part = int(share * self._driver.free_bytes())
        allowed = self._pools.device_room(self._facts.index)
        return part if allowed is None else min(part, allowed)

    def forget(self) -> None:
        """Count out what went with its context."""
        taken = sum(self._device.values()) + sum(self._claims.values())
        self._pools.give_device(self._facts.index, taken)
        self._pools.give_pinned(sum(self._pinned.values()))
        self._device.clear()
        self._pinned.clear()
        self._claims.clear()

    def _shortage(self, asked: int) -> str:
        index, total = self._facts.index, self._facts.total_bytes
        return (
            f"{asked} bytes of memory of GPU {index} were asked for: "
            f"{self._driver.free_bytes()} of {total} are free, "
            f"{self._pools.device_bytes(index)} are in use for batches, and {self._pools.device_bound(index)}"
        )
