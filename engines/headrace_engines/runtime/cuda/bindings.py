"""NVIDIA's cuda-python where both drivers go through it: GPUs, errors, pinned memory, graphs, resetting.

Its functions return a tuple with the status first, which is falsy for success.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from headrace_engines.runtime.cuda import faults
from headrace_engines.runtime.cuda.driver import Bytes, CudaError, Fault, GpuFacts
from headrace_engines.runtime.cuda.pages import pages, whole_pages

logger = logging.getLogger(__name__)

HANDLE_BYTES: Final = 64
_PART: Final = " MIG "
"""In the name of a part of a GPU that stands for itself (Multi-Instance GPU)."""


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


@functools.cache
def names_by_text() -> Mapping[str, str]:
    """Return the names of the driver's errors by the texts that it has for them."""
    driver = load()
    texts = ((driver.cuGetErrorString(status)[1], status.name) for status in driver.CUresult)
    return {text.decode(): name for text, name in texts if text}


def met() -> str | None:
    """Return the name of the error that has spoilt the thread's context; None if it is sound."""
    status, _, _ = load().cuMemGetInfo()
    return str(status.name) if status else None


def device(driver: Any, index: int) -> Any:
    """Return the driver's own name for the GPU."""
    status, found = driver.cuDeviceGet(index)
    check(driver, "cuDeviceGet", status)
    return found


def gpus() -> tuple[GpuFacts, ...]:
    """Return the GPUs that CUDA shows. Raises as `load` does."""
    driver = load()
    status, count = driver.cuDeviceGetCount()
    check(driver, "cuDeviceGetCount", status)
    return tuple(_facts(driver, index) for index in range(count))


def _facts(driver: Any, index: int) -> GpuFacts:
    def asked(call: str, *arguments: Any) -> Any:
        status, value = getattr(driver, call)(*arguments)
        check(driver, call, status)
        return value

    gpu = device(driver, index)
    name = asked("cuDeviceGetName", 256, gpu).split(b"\0")[0].decode()
    # The first form of the call tells a part of a GPU by the whole one's.
    call = "cuDeviceGetUuid_v2" if hasattr(driver, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    kind = "MIG" if _PART in name else "GPU"
    major = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    minor = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    return GpuFacts(
        index=index,
        name=name,
        uuid=f"{kind}-{UUID(bytes=asked(call, gpu).bytes)}",
        compute_capability=(
            int(asked("cuDeviceGetAttribute", major, gpu)),
            int(asked("cuDeviceGetAttribute", minor, gpu)),
        ),
        total_bytes=int(asked("cuDeviceTotalMem", gpu)),
        driver=int(asked("cuDriverGetVersion")),
    )


def allocate_pinned(driver: Any, size_bytes: int) -> Bytes:
    """Return pages of this process that are pinned in the context of the thread."""
    memory = pages(size_bytes)
    (status,) = driver.cuMemHostRegister(memory.ctypes.data, whole_pages(size_bytes), 0)
    check(driver, "cuMemHostRegister", status)
    return memory


def free_pinned(driver: Any, memory: Bytes) -> None:
    """Have the pages pinned no more; they stay as long as an array of them does."""
    (status,) = driver.cuMemHostUnregister(memory.ctypes.data)
    check(driver, "cuMemHostUnregister", status)


def reset(driver: Any, device: Any) -> None:
    """End the GPU's primary context, whoever has retained it.

    In a spoilt context the call may answer with what spoilt it: a fresh context tells what came of it.
    """
    (status,) = driver.cuDevicePrimaryCtxReset(device)
    if status:
        logger.debug("resetting GPU %s: %s", device, error(driver, "cuDevicePrimaryCtxReset", status))


def check_handle(handle: bytes) -> None:
    """Raise CudaError if this cannot be a handle of another process's memory."""
    if len(handle) != HANDLE_BYTES:
        text = f"a handle has {HANDLE_BYTES} bytes, and not {len(handle)}"
        raise faults.error("cuIpcOpenMemHandle", "CUDA_ERROR_INVALID_VALUE", text)


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


def launch(driver: Any, graph: Any, stream: Any) -> None:
    """Do what the graph holds, in the stream's turn."""
    (status,) = driver.cuGraphLaunch(graph, stream)
    if status:
        raise error(driver, "cuGraphLaunch", status)


def destroy_graph(driver: Any, graph: Any) -> None:
    """Let the graph go."""
    (status,) = driver.cuGraphExecDestroy(graph)
    check(driver, "cuGraphExecDestroy", status)
