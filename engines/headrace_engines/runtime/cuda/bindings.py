"""NVIDIA's cuda-python where both drivers go through it: importing it, its errors, graphs, resetting.

Its functions return a tuple with the status first, which is falsy for success.
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from headrace_engines.runtime.cuda import faults
from headrace_engines.runtime.cuda.driver import CudaError, Fault

logger = logging.getLogger(__name__)


def load() -> Any:
    """Import it and set CUDA up. Raises ImportError without it, CudaError without a driver."""
    from cuda.bindings import driver

    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:
        raise CudaError("cuInit", "no driver", Fault.CALL, str(error)) from error
    check(driver, "cuInit", status)
    return driver


def check(driver: Any, call: str, status: Any) -> None:
    """Raise CudaError if the status that the function `call` returned is not success."""
    if status:
        raise error(driver, call, status)


def error(driver: Any, call: str, status: Any) -> CudaError:
    """Return the error that the function `call` returned as its status."""
    _, text = driver.cuGetErrorString(status)
    return faults.error(call, status.name, text.decode() if text else "")


def device(driver: Any, index: int) -> Any:
    """Return the driver's own name for the GPU."""
    status, found = driver.cuDeviceGet(index)
    check(driver, "cuDeviceGet", status)
    return found


def reset(driver: Any, device: Any) -> None:
    """End the GPU's primary context, whoever has retained it.

    In a spoilt context the call may answer with what spoilt it: a fresh context tells what came of it.
    """
    (status,) = driver.cuDevicePrimaryCtxReset(device)
    if status:
        logger.debug("resetting GPU %s: %s", device, error(driver, "cuDevicePrimaryCtxReset", status))


def uuid(driver: Any, device: Any) -> str:
    """Return how nvidia-smi names the GPU."""
    status, found = driver.cuDeviceGetUuid(device)
    check(driver, "cuDeviceGetUuid", status)
    return f"GPU-{UUID(bytes=found.bytes)}"


def begin_capture(driver: Any, stream: Any) -> None:
    """Note what this thread puts into the stream, whatever other threads do."""
    (status,) = driver.cuStreamBeginCapture(
        stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    )
    check(driver, "cuStreamBeginCapture", status)


def end_capture(driver: Any, stream: Any) -> Any:
    """Return what was noted, ready to be launched."""
    status, noted = driver.cuStreamEndCapture(stream)
    check(driver, "cuStreamEndCapture", status)
    status, graph = driver.cuGraphInstantiate(noted, 0)
    (not_destroyed,) = driver.cuGraphDestroy(noted)
    check(driver, "cuGraphInstantiate", status)
    check(driver, "cuGraphDestroy", not_destroyed)
    return graph
