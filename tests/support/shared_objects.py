"""Shared memory objects as clients of the same machine make them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path("/dev/shm")


class SharedObject:
    """A real object, which its owner changes as it likes."""

    def __init__(self, data: bytes) -> None:
        self.key = f"/headrace-test-{secrets.token_hex(8)}"
        self.path = FOLDER / self.key[1:]
        self.path.write_bytes(data)

    @property
    def data(self) -> bytes:
        """What it holds."""
        return self.path.read_bytes()

    def resize(self, size_bytes: int) -> None:
        """Make it shorter, or longer with zeros."""
        os.truncate(self.path, size_bytes)

    def replace(self, data: bytes) -> None:
        """Put another object under its name."""
        other = self.path.with_name(self.path.name + "-other")
        other.write_bytes(data)
        other.rename(self.path)

    def remove(self) -> None:
        """Take its name away."""
        self.path.unlink(missing_ok=True)


@contextmanager
def shared_object(data: bytes) -> Iterator[SharedObject]:
    """Keep an object while the block runs."""
    made = SharedObject(data)
    try:
        yield made
    finally:
        made.remove()
