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
from headrace_engines.runtime.cuda.driver import CudaError, Driver, GpuFacts, no_such_gpu

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


_NO_LIBRARY: Final = (
    "cuda-bindings is not installed: in a clone, pip install '.[tensorrt]', '.[rtx]' or '.[cuda]'"
)
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
        except RuntimeError as error:  # so the bindings tell of a function that the driver lacks
            whys.append(f"the driver does not fit cuda-bindings: {error}")
    why = "; ".join(dict.fromkeys(whys)) or _NO_LIBRARY
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
        indices = [gpu.index for gpu in found.gpus]
        raise DeviceError(no_such_gpu(index, indices) if indices else f"there is no GPU here: {found.why}")
    with _opening.setdefault(index, threading.Lock()):
        gpu = _opened.get(index)
        if gpu is None or not gpu.share():
            is_first = gpu is None
            gpu = _opened[index] = _open(facts, found.library, logging.INFO if is_first else logging.DEBUG)
        return gpu


def _open(facts: GpuFacts, library: DriverLibrary, level: int) -> Gpu:
    index = facts.index
    try:
        driver = library.driver(facts)
        driver.retain()
    except (CudaError, RuntimeError) as error:  # the bindings raise the latter for what the driver lacks
        raise DeviceError(f"GPU {index} ({facts.name}) cannot be used: {error}") from error
    told = (index, facts.name, facts.architecture, driver.name)
    logger.log(level, "GPU %d is used: %s, %s, through %s", *told)
    return Gpu(driver, pools.current())
