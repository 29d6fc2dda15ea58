"""Which of the host's pinned memory has its bytes on the GPU as well: what answers were copied from.

Whoever copies such an answer to another place on that GPU need not send it back through the host.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from headrace_engines.runtime.cuda.driver import Bytes


class _Twin(NamedTuple):
    begin: int
    end: int
    generation: int
    address: int


class Twins:
    """The twins on one GPU. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._twins: dict[int, _Twin] = {}

    def add(self, host: Bytes, generation: int, address: int) -> None:
        """Note that pinned memory gets its bytes from this address, in this generation of the context."""
        begin = host.ctypes.data
        with self._lock:
            there = {key: twin for key, twin in self._twins.items() if twin.generation == generation}
            self._twins = {**there, begin: _Twin(begin, begin + host.nbytes, generation, address)}

    def remove(self, host: Bytes) -> None:
        """Forget the memory, before it is freed."""
        with self._lock:
            self._twins = {key: twin for key, twin in self._twins.items() if key != host.ctypes.data}

    def find(self, data: Bytes, generation: int) -> int | None:
        """Return where on the GPU the same bytes stand, in this generation; None if they do not."""
        begin = data.ctypes.data
        for twin in self._twins.values():
            if twin.generation == generation and twin.begin <= begin and begin + data.nbytes <= twin.end:
                return twin.address + begin - twin.begin
        return None
