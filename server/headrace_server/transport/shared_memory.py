"""System shared memory: regions that clients of this machine register, and pass tensors through.

A region is a part of a POSIX shared memory object. It is never mapped: its owner may make it shorter at any
time, and touching what is gone of a mapping ends the process. Nor is it kept open: each use opens the object
anew, reads or writes, and fails alone where the object has shrunk, gone, or is another one of the same name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from headrace_server.errors import InvalidInput
from headrace_server.transport.shared_region import Region, Slice

_FOLDER: Final = Path("/dev/shm")
_MOST_NAME_BYTES: Final = 255


class _Opened(NamedTuple):
    """An open object: its descriptor, its size, and what tells it from others that had or get its name."""

    descriptor: int
    size_bytes: int
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class SystemRegion(Region):
    """A range of the object of that key."""

    key: str

    def _slice(self, tensor: str, offset: int, size_bytes: int) -> Slice:
        return SystemSlice(self, tensor, offset, size_bytes)


@dataclass(frozen=True, slots=True)
class SystemSlice(Slice):
    """Where one tensor stands in an object."""

    region: SystemRegion

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


def open_region(name: str, key: str, offset: int, size_bytes: int) -> SystemRegion:
    """Look at an object, and return a range of it. Raises InvalidInput."""
    try:
        with _open(key) as opened:
            if offset + size_bytes > opened.size_bytes:
                raise InvalidInput(
                    f"region {name!r}: {size_bytes} bytes from byte {offset} on were asked for; "
                    f"{key!r} has {opened.size_bytes}"
                )
            return SystemRegion(name, offset, size_bytes, opened.identity, key)
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
