"""A region of memory that a client shares with the server, and the part of it where one tensor stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from headrace_engines.device_rows import DeviceRows
from headrace_server.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Region(ABC):
    """What a client registered: `size_bytes` from `offset` on, in the memory of that identity."""

    name: str
    offset: int
    size_bytes: int
    identity: tuple[int, int]
    """What tells its memory from others', whatever name it was registered under."""

    def slice(self, tensor: str, offset: int, size_bytes: int) -> Slice:
        """Return the part where a tensor stands; `tensor` names it in errors. Raises InvalidInput."""
        if offset < 0 or size_bytes <= 0 or offset + size_bytes > self.size_bytes:
            raise InvalidInput(
                f"{tensor}: {size_bytes} bytes from byte {offset} on were asked for; shared memory region "
                f"{self.name!r} has {self.size_bytes}"
            )
        return self._slice(tensor, offset, size_bytes)

    @abstractmethod
    def _slice(self, tensor: str, offset: int, size_bytes: int) -> Slice:
        """Return a part that is known to lie within the region."""


@dataclass(frozen=True, slots=True)
class Slice(ABC):
    """Where one tensor stands in a region. Its reads and writes raise InvalidInput if that is gone."""

    is_on_gpu: ClassVar[bool] = False

    region: Region
    tensor: str
    offset: int
    size_bytes: int

    @property
    def begin(self) -> int:
        """The first byte, counted from the memory's own beginning."""
        return self.region.offset + self.offset

    def place(self) -> tuple[tuple[int, int], int]:
        """Return the memory and the first byte in it, whatever name its region was registered under."""
        return self.region.identity, self.begin

    def overlaps(self, later: Slice) -> bool:
        """Whether a slice that does not begin earlier shares a byte with this one."""
        return self.region.identity == later.region.identity and later.begin < self.begin + self.size_bytes

    @property
    def device_rows(self) -> DeviceRows | None:
        """The bytes as an engine on a GPU can take them, if they stand there."""
        return None

    @abstractmethod
    def read(self) -> bytes:
        """Return the bytes."""

    @abstractmethod
    def write(self, data: memoryview) -> None:
        """Write, from the slice's first byte on; data may be shorter than the slice, and not longer."""

    def too_small(self, needed_bytes: int) -> InvalidInput:
        """Return the error for an answer that does not fit."""
        return InvalidInput(
            f"{self.tensor}: the answer takes {needed_bytes} bytes, shared_memory_byte_size is "
            f"{self.size_bytes}"
        )
