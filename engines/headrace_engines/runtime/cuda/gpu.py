"""Which GPUs this process can use, and the one `Gpu` that it has of each."""

from __future__ import annotations

import functools
import logging
import threading
from dataclasses import dataclass
from typing import Final, Protocol

from headrace_engines.errors import DeviceError
from headrace_engines.runtime.cuda import cuda_python_driver, pools, pycuda_driver
from headrace_engines.runtime.cuda.context import Gpu, Use
from headrace_engines.runtime.cuda.driver import CudaError, Driver, GpuFacts

__all__ = ["Gpu", "Use", "available", "open_gpu", "why_none"]

logger = logging.getLogger(__name__)


class DriverLibrary(Protocol):
    """A way to the driver: a module of this package that imports a library when it is first asked."""

    def gpus(self) -> tuple[GpuFacts, ...]:
        """Return the GPUs that CUDA shows this process. Raises ImportError or CudaError if none is."""

    def driver(self, facts: GpuFacts) -> Driver:
        """Return the driver of one of them."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to be used: `library` is None without a GPU, and `why` says why."""

    gpus: tuple[GpuFacts, ...] = ()
    library: DriverLibrary | None = None
    why: str = ""


_LIBRARIES: Final[tuple[DriverLibrary, ...]] = (pycuda_driver, cuda_python_driver)
_opened: dict[int, Gpu] = {}
_opening: dict[int, threading.Lock] = {}
"""One for each GPU: making a context takes seconds, in which others are opened."""


@functools.cache
def _found() -> Found:
    whys: list[str] = []
    for library in _LIBRARIES:
        try:
            if gpus := library.gpus():
                return Found(gpus, library)
            whys.append("CUDA shows none")
        except ModuleNotFoundError:
            continue
        except (ImportError, CudaError) as error:
            whys.append(str(error))
    why = "; ".join(dict.fromkeys(whys)) or "cuda-bindings is not installed"
    logger.debug("no GPU can be used: %s", why)
    return Found(why=why)


def available() -> tuple[GpuFacts, ...]:
    """Return the GPUs that CUDA shows this process; none without a driver, or without a library to ask it."""
    return _found().gpus


def why_none() -> str:
    """Return why no GPU is available, in a few words; empty if one is."""
    return _found().why


def open_gpu(index: int) -> Gpu:
    """Return the GPU, which whoever asks for it shares with the others that did, and closes.

    Raises DeviceError if there is none of this index, or it cannot be used.
    """
    found = _found()
    facts = next((facts for facts in found.gpus if facts.index == index), None)
    if facts is None or found.library is None:
        indices = ", ".join(str(gpu.index) for gpu in found.gpus)
        raise DeviceError(f"there is no GPU {index} here: {f'there are {indices}' if indices else found.why}")
    with _opening.setdefault(index, threading.Lock()):
        gpu = _opened.get(index)
        if gpu is None or not gpu.share():
            gpu = _opened[index] = _open(facts, found.library)
        return gpu


def _open(facts: GpuFacts, library: DriverLibrary) -> Gpu:
    index, driver = facts.index, library.driver(facts)
    try:
        driver.retain()
    except CudaError as error:
        raise DeviceError(f"GPU {index} ({facts.name}) cannot be used: {error}") from error
    logger.info("GPU %d is used: %s, %s, through %s", index, facts.name, facts.architecture, driver.name)
    return Gpu(driver, pools.current())
