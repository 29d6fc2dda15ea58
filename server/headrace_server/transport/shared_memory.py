"""System shared memory: regions that clients of this machine register, and pass tensors through.

A region is a part of a POSIX shared memory object. It is never mapped: its owner may make it shorter at any
time, and touching what is gone of a mapping ends the process. Nor is it kept open: each use opens the object
anew, reads or writes, and fails alone where the object has shrunk, gone, or is another one of the same name.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from headrace_server.errors import InvalidInput, NotSupported, Overloaded, RegionExists, RegionNotFound

FLAG: Final = "--allow-client-shm"
_FOLDER: Final = Path("/dev/shm")
_MOST_REGIONS: Final = 4096
_MOST_NAME_BYTES: Final = 255


class _Opened(NamedTuple):
    """An open object: its descriptor, its size, and what tells it from others that had or get its name."""

    descriptor: int
    size_bytes: int
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Region:
    """What a client registered: `size_bytes` from `offset` on, in the object of that key."""

    name: str
    key: str
    offset: int
    size_bytes: int
    identity: tuple[int, int]

    def slice(self, tensor: str, offset: int, size_bytes: int) -> Slice:
        """Return the part where a tensor stands; `tensor` names it in errors. Raises InvalidInput."""
        if offset < 0 or size_bytes <= 0 or offset + size_bytes > self.size_bytes:
            raise InvalidInput(
                f"{tensor}: {size_bytes} bytes from byte {offset} on were asked for; shared memory region "
                f"{self.name!r} has {self.size_bytes}"
            )
        return Slice(self, tensor, offset, size_bytes)


@dataclass(frozen=True, slots=True)
class Slice:
    """Where one tensor stands in a region. Its reads and writes raise InvalidInput if that is gone."""

    region: Region
    tensor: str
    offset: int
    size_bytes: int

    @property
    def begin(self) -> int:
        """The first byte, counted from the object's own beginning."""
        return self.region.offset + self.offset

    def place(self) -> tuple[tuple[int, int], int]:
        """Return the object and the first byte in it, whatever name its region was registered under."""
        return self.region.identity, self.begin

    def overlaps(self, later: Slice) -> bool:
        """Whether a slice that does not begin earlier shares a byte with this one."""
        return self.region.identity == later.region.identity and later.begin < self.begin + self.size_bytes

    def read(self) -> bytes:
        """Return the bytes."""
        parts = []
        position, end = self.begin, self.begin + self.size_bytes
        with self._opened() as opened:
            while position < end:  # the system reads at most 2 GiB at a time
                part = os.pread(opened.descriptor, end - position, position)
                if not part:
                    raise self._shrunk(position)
                parts.append(part)
                position += len(part)
        return b"".join(parts)

    def write(self, data: memoryview) -> None:
        """Write, from the slice's first byte on; data may be shorter than the slice, and not longer."""
        if len(data) > self.size_bytes:
            raise self.too_small(len(data))
        position = self.begin
        with self._opened() as opened:
            while data:
                written = os.pwrite(opened.descriptor, data, position)
                data = data[written:]
                position += written

    def too_small(self, needed_bytes: int) -> InvalidInput:
        """Return the error for an answer that does not fit."""
        return InvalidInput(
            f"{self.tensor}: the answer takes {needed_bytes} bytes, shared_memory_byte_size is "
            f"{self.size_bytes}"
        )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_Opened]:
        """Open the object, which must still be the one, and hold the slice: writing would make it longer."""
        region = self.region
        try:
            with _open(region.key) as opened:
                if opened.identity != region.identity:
                    raise InvalidInput(
                        f"{self.tensor}: the object {region.key!r} is another one than shared memory region "
                        f"{region.name!r} was registered with"
                    )
                if self.begin + self.size_bytes > opened.size_bytes:
                    raise self._shrunk(opened.size_bytes)
                yield opened
        except OSError as error:
            raise InvalidInput(
                f"{self.tensor}: shared memory region {region.name!r}: {region.key!r}: {error.strerror}"
            ) from None

    def _shrunk(self, size_bytes: int) -> InvalidInput:
        return InvalidInput(
            f"{self.tensor}: shared memory region {self.region.name!r} has shrunk: {self.region.key!r} has "
            f"{size_bytes} bytes, {self.begin + self.size_bytes} are needed"
        )


class Regions:
    """The regions that are registered, by name. Any thread may ask."""

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed
        self._regions: dict[str, Region] = {}
        self._changing = threading.Lock()

    def require(self) -> None:
        """Raise NotSupported where clients may not use shared memory."""
        if not self.allowed:
            raise NotSupported(f"shared memory of clients is not allowed: start the server with {FLAG}")

    def register(self, name: str, key: str, offset: int, size_bytes: int) -> None:
        """Add a region. Raises InvalidInput, RegionExists, Overloaded, NotSupported."""
        self.require()
        if not 0 < len(name.encode()) <= _MOST_NAME_BYTES:
            raise InvalidInput(
                f"a region's name of {len(name.encode())} bytes came, 1 to {_MOST_NAME_BYTES} expected"
            )
        if not size_bytes:
            raise InvalidInput(f"region {name!r}: byte_size is 0, at least 1 expected")
        region = _region(name, key, offset, size_bytes)
        with self._changing:
            if name in self._regions:
                raise RegionExists(f"shared memory region {name!r} is registered already")
            if len(self._regions) >= _MOST_REGIONS:
                raise Overloaded(f"{_MOST_REGIONS} shared memory regions are registered, which is the limit")
            self._regions[name] = region

    def unregister(self, name: str) -> None:
        """Forget a region, or all of them where there is no name; requests that use it still end well.

        One that is not registered is no error. Raises NotSupported.
        """
        self.require()
        with self._changing:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str) -> Mapping[str, Region]:
        """Return one region, or all where there is no name. Raises RegionNotFound."""
        with self._changing:
            regions = dict(self._regions)
        return {name: _find(regions, name)} if name else regions

    def find(self, name: str) -> Region:
        """Return a region. Raises RegionNotFound, NotSupported."""
        self.require()
        return _find(self._regions, name)


def _find(regions: Mapping[str, Region], name: str) -> Region:
    region = regions.get(name)
    if region is None:
        raise RegionNotFound(f"there is no shared memory region {name!r}")
    return region


def _region(name: str, key: str, offset: int, size_bytes: int) -> Region:
    try:
        with _open(key) as opened:
            if offset + size_bytes > opened.size_bytes:
                raise InvalidInput(
                    f"region {name!r}: {size_bytes} bytes from byte {offset} on were asked for; "
                    f"{key!r} has {opened.size_bytes}"
                )
            return Region(name, key, offset, size_bytes, opened.identity)
    except OSError as error:
        raise InvalidInput(
            f"region {name!r}: cannot open the shared memory object {key!r}: {error.strerror}"
        ) from None


@contextlib.contextmanager
def _open(key: str) -> Iterator[_Opened]:
    """Open the object of this name, and nothing else that a name might lead to.

    Raises InvalidInput, OSError.
    """
    name = key.removeprefix("/")
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > _MOST_NAME_BYTES:
        raise InvalidInput(
            f"{key!r} is no key of a shared memory object: 1 to 255 bytes expected, with no slash but a "
            "leading one"
        )
    # A pipe of this name must not keep the process waiting, before it is seen to be one.
    descriptor = os.open(_FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{key!r} is no shared memory object")
        yield _Opened(descriptor, status.st_size, (status.st_dev, status.st_ino))
    finally:
        os.close(descriptor)


NO_REGIONS: Final = Regions(allowed=False)
"""For whoever has none."""
