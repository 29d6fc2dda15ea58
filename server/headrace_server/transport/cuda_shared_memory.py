"""CUDA shared memory: regions on a GPU that clients of this machine register by their IPC handles.

A region is opened when it is registered, and closed once it was unregistered and no request uses it any
more: whatever uses it holds on to it, and the last one to let go has it closed, by a thread that may wait.
"""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_engines.device_rows import DeviceRows
from headrace_engines.errors import EngineError, InputError
from headrace_server.errors import InvalidInput
from headrace_server.transport.shared_region import Region, Slice

_logger = logging.getLogger(__name__)

HANDLE_BYTES: Final = 64
_CLOSE_SECONDS: Final = 10.0
"""Longest wait until regions are closed that nobody uses."""


class Opened(Protocol):
    """A piece of another process's memory, opened. Its calls raise InputError where that is gone."""

    def address(self) -> int:
        """Return where it is on its GPU."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return a copy of a part."""

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        """Change a part, and return once that is done."""

    def close(self) -> None:
        """Give it up."""


class DeviceMemory(Protocol):
    """Whoever opens memory on GPUs."""

    def open(self, index: int, handle: bytes, size_bytes: int) -> Opened:
        """Open what a handle stands for. Raises InputError, and another EngineError if the GPU fails."""

    def close(self) -> None:
        """Give up everything."""


@dataclass(frozen=True, slots=True, eq=False)
class CudaRegion(Region):
    """A region on a GPU."""

    gpu: int
    opened: Opened

    def _slice(self, tensor: str, offset: int, size_bytes: int) -> Slice:
        return CudaSlice(self, tensor, offset, size_bytes)


@dataclass(frozen=True, slots=True)
class CudaSlice(Slice):
    """Where one tensor stands on a GPU."""

    is_on_gpu: ClassVar[bool] = True

    region: CudaRegion

    @property
    def device_rows(self) -> DeviceRows:
        """The bytes as an engine on the same GPU can take them."""
        return _Rows(self)

    def read(self) -> bytes:
        """Return the bytes, once they have come from the GPU."""
        try:
            return self.device_rows.read()
        except InputError as error:
            raise InvalidInput(str(error)) from None

    def write(self, data: memoryview) -> None:
        """Write, and return once that is done."""
        if len(data) > self.size_bytes:
            raise self.too_small(len(data))
        try:
            self.region.opened.write(self.offset, np.frombuffer(data, np.uint8))
        except InputError as error:
            raise InvalidInput(self.told(error)) from None

    def told(self, error: InputError) -> str:
        """Return the error's text with what it is about."""
        return f"{self.tensor}: CUDA shared memory region {self.region.name!r}: {error}"


class _Rows(DeviceRows):
    """The bytes of a slice, for an engine."""

    __slots__ = ("_part",)

    def __init__(self, part: CudaSlice) -> None:
        self._part = part

    @property
    def gpu(self) -> int:
        return self._part.region.gpu

    def __len__(self) -> int:
        return self._part.size_bytes

    def address(self) -> int:
        part = self._part
        try:
            return part.region.opened.address() + part.offset
        except InputError as error:
            raise InputError(part.told(error)) from error

    def read(self) -> bytes:
        part = self._part
        try:
            return part.region.opened.read(part.offset, part.size_bytes)
        except InputError as error:
            raise InputError(part.told(error)) from error


class CudaRegions:
    """Opens regions, and closes those that nobody holds on to any more."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._unused: queue.SimpleQueue[Opened | threading.Event | None] = queue.SimpleQueue()
        self._closer = threading.Thread(target=self._close_unused, name="cuda-shared-memory", daemon=True)
        self._closer.start()

    def open(self, name: str, handle: bytes, gpu: int, size_bytes: int) -> CudaRegion:
        """Open a region. Raises InvalidInput, and an EngineError if the GPU fails."""
        if len(handle) != HANDLE_BYTES:
            raise InvalidInput(
                f"region {name!r}: raw_handle has {len(handle)} bytes, a CUDA IPC handle has {HANDLE_BYTES}"
            )
        try:
            opened = self._memory.open(gpu, handle, size_bytes)
        except InputError as error:
            raise InvalidInput(f"region {name!r}: {error}") from None
        # No device of the system has a negative number, as those of other regions do.
        region = CudaRegion(name, 0, size_bytes, (-1 - gpu, int.from_bytes(handle)), gpu, opened)
        weakref.finalize(region, self._unused.put, opened).atexit = False
        return region

    def flush(self) -> None:
        """Wait until everything is closed that nobody holds on to."""
        done = threading.Event()
        self._unused.put(done)
        done.wait(_CLOSE_SECONDS)

    def close(self) -> None:
        """Give up everything."""
        self._unused.put(None)
        self._closer.join(_CLOSE_SECONDS)
        self._memory.close()

    def _close_unused(self) -> None:
        while (unused := self._unused.get()) is not None:
            if isinstance(unused, threading.Event):
                unused.set()
                continue
            try:
                unused.close()
            except EngineError as error:
                _logger.warning("a CUDA shared memory region could not be closed: %s", error)
