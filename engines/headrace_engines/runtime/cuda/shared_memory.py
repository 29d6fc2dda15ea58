"""Memory on a GPU that another process has given away: CUDA shared memory, opened by its IPC handle.

It is opened in the GPU's primary context, and anew once that was reset: the memory is its owner's, and
outlives our contexts. What an engine on the same GPU takes it copies there itself. Everything else goes
through one piece of pinned memory a GPU, and whoever asks waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import DeviceError, EngineSpoilt, InputError
from headrace_engines.runtime.cuda import gpu
from headrace_engines.runtime.cuda.driver import Bytes, CudaError, Driver, Fault, Stream, no_such_gpu
from headrace_engines.runtime.cuda.gpu import Gpu, available, open_gpu

_PIECE_BYTES: Final = 4 << 20
"""Enough to be copied at the bus's speed."""


def why_none() -> str:
    """Say why no GPU's memory can be opened; "" if one's can. A context is made for that, and given up."""
    reasons = []
    for facts in available():
        try:
            open_gpu(facts.index).close()
        except DeviceError as error:
            reasons.append(str(error))
        else:
            return ""
    return "; ".join(reasons) or gpu.why_none()


class SharedMemory:
    """All that this process has opened of other processes' memory. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bridges: dict[int, _Bridge] = {}

    def open(self, index: int, handle: bytes, size_bytes: int) -> OpenedMemory:
        """Open the memory on this GPU that the handle stands for, at least so many bytes of it.

        Raises InputError where there is no such GPU that can be used, the handle is none, or its memory is
        smaller;
        EngineSpoilt or DeviceError if the GPU fails.
        """
        if index not in (indices := [facts.index for facts in available()]):
            raise InputError(no_such_gpu(index, indices))
        with self._lock:
            bridge = self._bridges.get(index)
            if bridge is None:
                bridge = self._bridges[index] = _Bridge(_opened(index))
        return OpenedMemory(bridge, handle, size_bytes)

    def close(self) -> None:
        """Give up the GPUs; what is still open there is closed with their contexts."""
        with self._lock:
            bridges = list(self._bridges.values())
            self._bridges.clear()
        for bridge in bridges:
            bridge.close()


def _opened(index: int) -> Gpu:
    try:
        return open_gpu(index)
    except DeviceError as error:  # it was never used: whoever names another is served
        raise InputError(str(error)) from error


class OpenedMemory:
    """One piece of another process's memory."""

    def __init__(self, bridge: _Bridge, handle: bytes, size_bytes: int) -> None:
        """Open it; raises as `SharedMemory.open` does."""
        self._bridge = bridge
        self._handle = handle
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._generation, self._address = self._open()

    def address(self) -> int:
        """Return where it is in the GPU's present context.

        Raises InputError where its owner has taken it back, EngineSpoilt or DeviceError if the GPU fails.
        """
        with self._lock:
            if self._generation != self._bridge.gpu.generation:
                self._generation, self._address = self._open()
            return self._address

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return a copy of a part. Raises as `address` does."""
        return self._bridge.read(self, offset, size_bytes)

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        """Change a part, and return once that is done. Raises as `address` does."""
        self._bridge.write(self, offset, data)

    def close(self) -> None:
        """Give it up; nothing copies from it or to it any more."""
        gpu = self._bridge.gpu
        with self._lock, contextlib.suppress(EngineSpoilt), gpu.use(self._generation) as driver:
            driver.close_shared(self._address)  # elsewhere it went with its context

    def _open(self) -> tuple[int, int]:
        gpu = self._bridge.gpu
        generation = gpu.generation
        with gpu.use(generation) as driver:
            try:
                address, size_bytes = driver.open_shared(self._handle)
            except CudaError as error:
                if error.fault is not Fault.CALL:
                    driver.free_bytes()  # fails, too, if it is the context: a client's handle spoils none
                raise InputError(f"the CUDA IPC handle cannot be opened: {error}") from error
            if size_bytes < self._size_bytes:
                driver.close_shared(address)
                raise InputError(f"{self._size_bytes} bytes were asked for; the memory has {size_bytes}")
        return generation, address


class _Lane:
    """What copies take in one context."""

    def __init__(self, gpu: Gpu, generation: int) -> None:
        self.generation = generation
        with gpu.use(generation) as driver:
            self.piece: Bytes = gpu.memory.allocate_pinned(_PIECE_BYTES)
            self.stream: Stream = driver.stream()
            self.done: Any = driver.event()

    def close(self, gpu: Gpu) -> None:
        with contextlib.suppress(EngineSpoilt, DeviceError), gpu.use(self.generation) as driver:
            driver.destroy_event(self.done)
            driver.destroy_stream(self.stream)
            gpu.memory.free_pinned(self.piece)


class _Bridge:
    """Copies between a GPU and memory that is not pinned, a piece at a time.

    Where the GPU's memory stands is asked for inside the copy, when the context cannot be reset any more: an
    address of the one before may be other memory's by now.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._lane: _Lane | None = None

    def read(self, memory: OpenedMemory, offset: int, size_bytes: int) -> bytes:
        """Return a copy of the GPU's bytes."""
        parts = []
        with self._copying() as (driver, lane):
            address = memory.address() + offset
            for begin in range(0, size_bytes, _PIECE_BYTES):
                piece = lane.piece[: min(size_bytes - begin, _PIECE_BYTES)]
                driver.copy_out(piece, address + begin, lane.stream)
                _await(driver, lane)
                parts.append(piece.tobytes())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, memory: OpenedMemory, offset: int, data: NDArray[np.uint8]) -> None:
        """Copy to the GPU, from there if the same bytes stand on it, and wait until that is done."""
        with self._copying() as (driver, lane):
            address = memory.address() + offset
            if (twin := self.gpu.twins.find(data, lane.generation)) is not None:
                driver.copy_within(address, twin, len(data), lane.stream)
                _await(driver, lane)
                return
            for begin in range(0, len(data), _PIECE_BYTES):
                part = data[begin : begin + _PIECE_BYTES]
                piece = lane.piece[: len(part)]
                piece[:] = part
                driver.copy_in(address + begin, piece, lane.stream)
                _await(driver, lane)

    def close(self) -> None:
        """Give up what copies take, and the GPU."""
        with self._lock:
            if self._lane is not None:
                self._lane.close(self.gpu)
                self._lane = None
        self.gpu.close()

    @contextlib.contextmanager
    def _copying(self) -> Iterator[tuple[Driver, _Lane]]:
        """Have what copies take; after an error that spoils the context there is a fresh one for the next."""
        generation = 0
        try:
            with self._lock:
                generation = self.gpu.generation
                if self._lane is None or self._lane.generation != generation:
                    self._lane = _Lane(self.gpu, generation)
                with self.gpu.use(generation) as driver:
                    yield driver, self._lane
        except EngineSpoilt:
            self._renew(generation)
            raise

    def _renew(self, generation: int) -> None:
        """Have a fresh context made, which may wait for a load; one caller waits, the others are refused."""
        if self._renewing.acquire(blocking=False):
            try:
                self.gpu.renew(generation)
            finally:
                self._renewing.release()


def _await(driver: Driver, lane: _Lane) -> None:
    driver.record(lane.done, lane.stream)
    driver.synchronize(lane.done)
