"""How much pinned host memory and GPU memory this process may take for batches, and how much it has taken.

Buffers are allocated once, when a model is loaded, and stay: a pool is a bound and a count. What libraries
take of a GPU besides, as for execution contexts, is counted in once they have; weights are not.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from headrace_engines.errors import MemoryExhausted

_PINNED_FLAG: Final = "--pinned-memory-pool-byte-size"
_DEVICE_FLAG: Final = "--cuda-memory-pool-byte-size"


class Pools:
    """Bounds in bytes, 0 or absent for none, and what is in use. Threads may share it."""

    def __init__(
        self, pinned_limit_bytes: int = 0, device_limit_bytes: Mapping[int, int] | None = None
    ) -> None:
        """`device_limit_bytes` has a bound for the index of each GPU that has one."""
        self._pinned_limit = pinned_limit_bytes
        self._device_limits = dict(device_limit_bytes or {})
        self._pinned = 0
        self._device: dict[int, int] = {}
        self._lock = threading.Lock()

    def pinned_bytes(self) -> int:
        """Return how much pinned host memory is in use."""
        return self._pinned

    def device_bytes(self, gpu: int) -> int:
        """Return how much of the GPU's memory is in use."""
        return self._device.get(gpu, 0)

    def device_room(self, gpu: int) -> int | None:
        """Return how much more of the GPU's memory may be taken; None for any."""
        limit = self._device_limits.get(gpu, 0)
        return max(0, limit - self._device.get(gpu, 0)) if limit else None

    def device_bound(self, gpu: int) -> str:
        """Return in words how much of the GPU's memory may be in use."""
        limit = self._device_limits.get(gpu, 0)
        return f"{_DEVICE_FLAG} allows {limit}" if limit else f"{_DEVICE_FLAG} sets no bound"

    def take_pinned(self, size_bytes: int) -> None:
        """Count pinned memory in. Raises MemoryExhausted if the bound does not allow it."""
        with self._lock:
            _check("pinned host memory", size_bytes, self._pinned, self._pinned_limit, _PINNED_FLAG)
            self._pinned += size_bytes

    def give_pinned(self, size_bytes: int) -> None:
        """Count pinned memory out."""
        with self._lock:
            self._pinned -= size_bytes

    def take_device(self, gpu: int, size_bytes: int, *, is_bounded: bool = True) -> None:
        """Count memory of the GPU in. Raises MemoryExhausted if it `is_bounded` and too much."""
        with self._lock:
            in_use = self._device.get(gpu, 0)
            limit = self._device_limits.get(gpu, 0) if is_bounded else 0
            _check(f"memory of GPU {gpu}", size_bytes, in_use, limit, _DEVICE_FLAG)
            self._device[gpu] = in_use + size_bytes

    def give_device(self, gpu: int, size_bytes: int) -> None:
        """Count memory of the GPU out."""
        with self._lock:
            self._device[gpu] = self._device.get(gpu, 0) - size_bytes

    @property
    def is_unused(self) -> bool:
        """Whether nothing is in use."""
        return not self._pinned and not any(self._device.values())


def _check(what: str, asked: int, in_use: int, limit: int, flag: str) -> None:
    if limit and in_use + asked > limit:
        raise MemoryExhausted(
            f"{asked} bytes of {what} were asked for, {in_use} are in use, and {flag} allows {limit}"
        )


_pools = Pools()


def configure(pinned_limit_bytes: int = 0, device_limit_bytes: Mapping[int, int] | None = None) -> None:
    """Set the process's bounds, before anything is allocated. Raises RuntimeError if something is."""
    global _pools
    if not _pools.is_unused:
        raise RuntimeError("the bounds on memory are set before the first model is loaded")
    _pools = Pools(pinned_limit_bytes, device_limit_bytes)


def current() -> Pools:
    """Return the process's pools."""
    return _pools
