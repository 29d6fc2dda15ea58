"""How a GPU fares, as NVIDIA's management library tells it: of the whole GPU, whoever uses it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What a GPU told at one moment; None for what it does not tell, as a part of one (MIG) most of it.

    Memory is in bytes; `utilisation` is the share of the last moments, 0 to 1, in which the GPU computed;
    `uncorrected_ecc` counts errors of its memory since the driver was loaded that could not be corrected.
    """

    memory_used: int | None
    memory_total: int | None
    utilisation: float | None
    temperature_celsius: int | None
    power_watts: float | None
    uncorrected_ecc: int | None


def sample(uuid: str) -> GpuSample | None:
    """Ask the GPU of this UUID, as `GpuFacts` has it; None without the library, its driver, or that GPU.

    A GPU that is in trouble may take its time to answer.
    """
    nvml = _library()
    if nvml is None:
        return None
    gpu = _told(nvml, lambda: nvml.nvmlDeviceGetHandleByUUID(uuid))
    if gpu is None:
        return None
    memory = _told(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(gpu))
    rates = _told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(gpu))
    milliwatts = _told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(gpu))
    return GpuSample(
        memory_used=None if memory is None else int(memory.used),
        memory_total=None if memory is None else int(memory.total),
        utilisation=None if rates is None else rates.gpu / 100,
        temperature_celsius=_told(
            nvml, lambda: int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
        ),
        power_watts=None if milliwatts is None else milliwatts / 1000,
        uncorrected_ecc=_told(
            nvml,
            lambda: int(
                nvml.nvmlDeviceGetTotalEccErrors(
                    gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                )
            ),
        ),
    )


@functools.cache
def _library() -> Any:
    """Import and start the library, once in a process; None if there is none, or no driver for it."""
    try:
        import pynvml
    except ImportError as error:
        logger.debug("nothing is known of how GPUs fare: %s", error)
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.debug("nothing is known of how GPUs fare: %s", error)
        return None
    return pynvml


def _told(nvml: Any, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except nvml.NVMLError:
        return None
