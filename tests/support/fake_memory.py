"""Memory as a fake GPU sees it: what belongs to which allocation, and who touched it in which order.

Two pieces of work that touch the same bytes, one of them writing, must be in order: the one's clock has to
hold the other's tick. A clock is a vector: for each stream how far it had come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Clock = Mapping[int, int]

UNDEFINED = 0xCD
FREED = 0xDB
_FIRST_ADDRESS = 0x7F00_0000_0000
_ALIGNMENT = 256
_GUARD = 4096
_PAGE = 4096


class Misuse(AssertionError):
    """What a real GPU would have answered with wrong numbers, a crash, or a leak."""


@dataclass(frozen=True, slots=True)
class Access:
    """One piece of work's touch of a part of a block."""

    start: int
    stop: int
    is_write: bool
    stream: int
    tick: int
    label: str


@dataclass(slots=True, eq=False)
class Block:
    """One allocation: `kind` is "device", "pinned" or "shared"."""

    kind: str
    address: int
    data: Bytes
    is_live: bool = True
    accesses: list[Access] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} memory of {self.data.nbytes} bytes at {self.address:#x}"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a block."""

    block: Block
    start: int
    stop: int

    @property
    def data(self) -> Bytes:
        return self.block.data[self.start : self.stop]


class Memory:
    """All blocks that there are, and those that there were, so that their use can be told."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._next = _FIRST_ADDRESS

    def add_device(self, size: int) -> Block:
        return self._add("device", np.full(size, UNDEFINED, np.uint8))

    def add_shared(self, data: Bytes) -> Block:
        return self._add("shared", data)

    def _add(self, kind: str, data: Bytes) -> Block:
        block = Block(kind, self._next, data)
        self._next += -(-(data.nbytes + _GUARD) // _ALIGNMENT) * _ALIGNMENT
        self._blocks.append(block)
        return block

    def add_pinned(self, size: int) -> Block:
        whole = np.full(size + _PAGE, UNDEFINED, np.uint8)
        start = -whole.ctypes.data % _PAGE
        data = whole[start : start + size]
        block = Block("pinned", data.ctypes.data, data)
        self._blocks = [
            old
            for old in self._blocks
            if old.is_live
            or old.address >= block.address + size
            or block.address >= old.address + old.data.nbytes
        ]
        self._blocks.append(block)
        return block

    def live(self) -> list[Block]:
        return [block for block in self._blocks if block.is_live]

    def device_bytes(self) -> int:
        return sum(block.data.nbytes for block in self.live() if block.kind == "device")

    def at(self, address: int, size: int) -> Span | None:
        """Return what lies there, live or not; None if nothing ever did."""
        for block in reversed(self._blocks):
            start = address - block.address
            if 0 <= start < max(block.data.nbytes, 1):
                return Span(block, start, start + size)
        return None

    def span(self, address: int, size: int, *, pinned: bool) -> Span:
        """Return what lies there; Misuse if it is not wholly inside one live block of that sort."""
        what = f"{size} bytes at {address:#x}"
        span = self.at(address, size)
        if span is None:
            raise Misuse(f"{what} {'are not pinned' if pinned else 'are in no allocation'}")
        if not span.block.is_live:
            raise Misuse(f"{what} were freed: {span.block}")
        if pinned != (span.block.kind == "pinned"):
            raise Misuse(f"{what} are {span.block}")
        if span.stop > span.block.data.nbytes:
            raise Misuse(f"{what} reach beyond {span.block}")
        return span


def conflicts(span: Span, *, is_write: bool, known: Clock) -> list[Access]:
    """Return the accesses to the same bytes, one of the two writing, that `known` does not hold."""
    return [
        access
        for access in span.block.accesses
        if (is_write or access.is_write)
        and access.start < span.stop
        and span.start < access.stop
        and known.get(access.stream, 0) < access.tick
    ]


def forget(block: Block, known: Clock) -> None:
    """Drop the accesses that everything to come is after, since the host knows that they are over."""
    block.accesses = [access for access in block.accesses if known.get(access.stream, 0) < access.tick]


def merged(*clocks: Clock) -> dict[int, int]:
    """Return the clock that holds all of these."""
    whole: dict[int, int] = {}
    for clock in clocks:
        for stream, tick in clock.items():
            whole[stream] = max(tick, whole.get(stream, 0))
    return whole


def views(spans: Iterable[Span]) -> list[Bytes]:
    """Return the bytes of the spans, to be read and written in place."""
    return [span.data for span in spans]
