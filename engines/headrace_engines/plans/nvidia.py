"""Which of NVIDIA's libraries builds plans here: TensorRT, or TensorRT for RTX, which needs no GPU for it.

Both have the same interface, as far as it is used, so that one code path serves them.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from types import ModuleType
from typing import Final

from headrace_engines.errors import UnsupportedModelError

TENSORRT: Final = "tensorrt"
RTX: Final = "tensorrt_rtx"
_DISTRIBUTIONS: Final = {
    TENSORRT: ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    RTX: ("tensorrt-rtx",),
}
"""What brings a module, any of which suffices: the package "tensorrt" only asks for one of the others."""
_CUDA: Final = {
    TENSORRT: {13: "tensorrt-cu13", 12: "tensorrt-cu12"},
    RTX: {13: "tensorrt-rtx-cu13", 12: "tensorrt-rtx-cu12"},
}
"""The packages of a library by the CUDA that they need."""
_LEAST_DRIVER: Final = {12: "525", 13: "580"}
"""NVIDIA's first driver for each of them."""
ANY_ARCHITECTURE: Final = "any"
"""Plans of TensorRT for RTX carry code that each GPU's driver finishes."""


@dataclass(frozen=True, slots=True)
class Library:
    """An installed library, by its module's name and exact version, which alone loads what it built."""

    name: str
    version: str

    @property
    def family(self) -> str:
        """How the library is called in the names of plans: "trt" or "rtx"."""
        return "rtx" if self.name == RTX else "trt"

    @property
    def short_name(self) -> str:
        """What stands in the names of plans: "trt10.13.2" or "rtx1.7.1"."""
        return f"{self.family}{self.version}"

    def module(self) -> ModuleType:
        """Import it, which takes hundreds of megabytes; raises UnsupportedModelError if that fails."""
        try:
            return importlib.import_module(self.name)
        except (ImportError, OSError) as error:
            raise UnsupportedModelError(
                f"{self.name} {self.version} is installed and cannot be imported: {error}"
            ) from error


def all_installed() -> tuple[Library, ...]:
    """Return the libraries that are here, TensorRT itself first."""
    found = []
    for name, distributions in _DISTRIBUTIONS.items():
        versions = (version for distribution in distributions if (version := _version(distribution)))
        found += [Library(name, version) for version in islice(versions, 1)]
    return tuple(found)


def check_driver(library: Library, supported: int) -> None:
    """Raise UnsupportedModelError if the driver, whose newest CUDA this is (12040), is too old for it.

    A library whose package does not tell which CUDA it needs is taken to fit.
    """
    needed = [cuda for cuda, name in _CUDA[library.name].items() if _version(name) == library.version]
    if needed and supported // 1000 < min(needed):
        cuda = f"{supported // 1000}.{supported % 1000 // 10}"
        raise UnsupportedModelError(
            f"the driver supports CUDA {cuda}, and {library.name} {library.version} needs "
            f"CUDA {min(needed)}: install a driver of {_LEAST_DRIVER[min(needed)]} or newer"
        )


def _version(distribution: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return None


def installed() -> Library | None:
    """Return the library that builds plans here; None without either."""
    return next(iter(all_installed()), None)


def needed() -> Library:
    """Return the library; raises UnsupportedModelError naming the extras if there is none."""
    library = installed()
    if library is None:
        raise UnsupportedModelError(
            "building TensorRT plans needs tensorrt, or tensorrt_rtx where there is no GPU: in a clone of "
            "Headrace, pip install '.[tensorrt]' or pip install '.[rtx]'"
        )
    return library


def architecture(library: Library) -> str:
    """Return for which GPUs a plan built here is: "sm90" for TensorRT's, which are for this machine's GPU.

    Raises UnsupportedModelError if TensorRT finds no GPU: it builds on the GPU that will run the plan.
    """
    if library.name == RTX:
        return ANY_ARCHITECTURE
    from headrace_engines.runtime.cuda import gpu  # only TensorRT itself asks for a GPU

    found = gpu.available()
    if not found:
        raise UnsupportedModelError(
            f"TensorRT builds on a GPU, and none can be used here ({gpu.why_none()}); tensorrt_rtx builds "
            "without one: pip install '.[rtx]', and uninstall tensorrt"
        )
    return found[0].architecture
