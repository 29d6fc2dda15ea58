"""The regions of memory that clients share with the server, by their names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from headrace_server.errors import InvalidInput, NotSupported, Overloaded, RegionExists, RegionNotFound
from headrace_server.transport.cuda_shared_memory import CudaRegion, CudaRegions, DeviceMemory
from headrace_server.transport.shared_memory import SystemRegion, open_region
from headrace_server.transport.shared_region import Region

FLAG: Final = "--allow-client-shm"
_MOST_REGIONS: Final = 4096
_MOST_NAME_BYTES: Final = 255

Kind = TypeVar("Kind", SystemRegion, CudaRegion)


class Regions:
    """The regions that are registered: of the system's memory and of GPUs, under names of their own.

    Any thread may ask.
    """

    def __init__(
        self, *, allowed: bool, device_memory: Callable[[], DeviceMemory | str] = lambda: "it looks for none"
    ) -> None:
        """`device_memory` makes what opens memory on GPUs, or says why there is none: asked where allowed."""
        self.allowed = allowed
        self._regions: dict[str, Region] = {}
        self._changing = threading.Lock()
        memory = device_memory() if allowed else ""
        self._cuda = None if isinstance(memory, str) else CudaRegions(memory)
        self._why_no_gpu = memory if isinstance(memory, str) else ""

    @property
    def has_gpu(self) -> bool:
        """Whether clients may share the memory of a GPU."""
        return self._cuda is not None

    def require(self) -> None:
        """Raise NotSupported where clients may not use shared memory."""
        if not self.allowed:
            raise NotSupported(f"shared memory of clients is not allowed: start the server with {FLAG}")

    def register(self, name: str, key: str, offset: int, size_bytes: int) -> None:
        """Add a region of the system's. Raises InvalidInput, RegionExists, Overloaded, NotSupported."""
        self._check(name, size_bytes)
        self._add(open_region(name, key, offset, size_bytes))

    def register_cuda(self, name: str, handle: bytes, gpu: int, size_bytes: int) -> None:
        """Add a region on a GPU: waits for it.

        Raises as `register` does, and an EngineError if the GPU fails.
        """
        self._check(name, size_bytes)
        if self._cuda is None:
            raise InvalidInput(
                f"region {name!r}: there is no GPU that this server can use: {self._why_no_gpu}"
            )
        with self._changing:  # what cannot be added need not be opened
            self._check_free(name)
        self._add(self._cuda.open(name, handle, gpu, size_bytes))

    def unregister(self, name: str, kind: type[SystemRegion | CudaRegion]) -> None:
        """Forget a region, or all of that kind where there is no name; requests that use it still end well.

        One that is not registered, or is of another kind, is no error. Raises NotSupported.
        """
        self.require()
        with self._changing:
            names = [name] if name else list(self._regions)
            for one in names:
                if isinstance(self._regions.get(one), kind):
                    del self._regions[one]
        if kind is CudaRegion and self._cuda is not None:
            self._cuda.flush()

    def status(self, name: str, kind: type[Kind]) -> Mapping[str, Kind]:
        """Return one region, or all of that kind where there is no name. Raises RegionNotFound."""
        with self._changing:
            regions = dict(self._regions)
        if not name:
            return {one: region for one, region in regions.items() if isinstance(region, kind)}
        region = _find(regions, name)
        if not isinstance(region, kind):
            raise RegionNotFound(f"shared memory region {name!r} is one of the other kind: {_kind(region)}")
        return {name: region}

    def find(self, name: str) -> Region:
        """Return a region. Raises RegionNotFound, NotSupported."""
        self.require()
        return _find(self._regions, name)

    def close(self) -> None:
        """Give up the regions on GPUs; nothing uses them any more."""
        self._regions = {}
        if self._cuda is not None:
            self._cuda.close()

    def _check(self, name: str, size_bytes: int) -> None:
        self.require()
        if not 0 < len(name.encode()) <= _MOST_NAME_BYTES:
            raise InvalidInput(
                f"a region's name of {len(name.encode())} bytes came, 1 to {_MOST_NAME_BYTES} expected"
            )
        if not size_bytes:
            raise InvalidInput(f"region {name!r}: byte_size is 0, at least 1 expected")

    def _add(self, region: Region) -> None:
        with self._changing:
            self._check_free(region.name)
            self._regions[region.name] = region

    def _check_free(self, name: str) -> None:
        if name in self._regions:
            raise RegionExists(f"shared memory region {name!r} is registered already")
        if len(self._regions) >= _MOST_REGIONS:
            raise Overloaded(f"{_MOST_REGIONS} shared memory regions are registered, which is the limit")


def _find(regions: Mapping[str, Region], name: str) -> Region:
    region = regions.get(name)
    if region is None:
        raise RegionNotFound(f"there is no shared memory region {name!r}")
    return region


def _kind(region: Region) -> str:
    return "CUDA shared memory" if isinstance(region, CudaRegion) else "system shared memory"


NO_REGIONS: Final = Regions(allowed=False)
"""For whoever has none."""
