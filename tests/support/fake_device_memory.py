"""Memory of GPUs as a server's rooms see it: opened by handles, and closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import EngineError, InputError

_FIRST_ADDRESS = 0x7000
_STEP = 0x1000


class FakeDeviceMemory:
    """GPU 0, whose memory stands in arrays; each handle's has an address of its own."""

    def __init__(self, memory: Mapping[bytes, bytes]) -> None:
        self._memory = {handle: np.frombuffer(data, np.uint8).copy() for handle, data in memory.items()}
        self.open_now: list[bytes] = []
        self.is_closed = False
        self.gone: InputError | None = None
        """Raised by whatever uses memory that is open."""
        self.at_close: EngineError | None = None
        self.before_open: Callable[[], None] | None = None

    def open(self, index: int, handle: bytes, size_bytes: int) -> FakeOpened:
        before, self.before_open = self.before_open, None
        if before is not None:
            before()
        if index != 0:
            raise InputError(f"there is no GPU {index}")
        if handle not in self._memory:
            raise InputError("no such handle")
        if size_bytes > len(self._memory[handle]):
            raise InputError(f"{size_bytes} bytes were asked for; the memory has {len(self._memory[handle])}")
        self.open_now.append(handle)
        return FakeOpened(self, handle)

    def close(self) -> None:
        self.is_closed = True

    def bytes_of(self, handle: bytes) -> bytes:
        """Return what the memory holds."""
        return self._memory[handle].tobytes()

    def address_of(self, handle: bytes) -> int:
        """Return where the memory is."""
        return _FIRST_ADDRESS + _STEP * list(self._memory).index(handle)


class FakeOpened:
    def __init__(self, memory: FakeDeviceMemory, handle: bytes) -> None:
        self._owner = memory
        self._handle = handle

    def address(self) -> int:
        self._check()
        return self._owner.address_of(self._handle)

    def read(self, offset: int, size_bytes: int) -> bytes:
        self._check()
        return self._owner.bytes_of(self._handle)[offset : offset + size_bytes]

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        self._check()
        self._owner._memory[self._handle][offset : offset + len(data)] = data

    def close(self) -> None:
        if self._owner.at_close is not None:
            raise self._owner.at_close
        self._owner.open_now.remove(self._handle)

    def _check(self) -> None:
        if self._owner.gone is not None:
            raise self._owner.gone
