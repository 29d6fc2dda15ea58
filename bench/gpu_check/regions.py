"""Where rows stand that are in no message: memory of the host, or of a GPU, that the server is told of."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.gpu_check import opening
from bench.gpu_check.device import Device
from bench.gpu_check.setting import Setting
from headrace_proto.v1 import inference_pb2 as pb

SHARED_MEMORY: Final = "shared memory"
CUDA_SHARED_MEMORY: Final = "CUDA shared memory"
NAME: Final = "rows"
_FOLDER: Final = Path("/dev/shm")
_HANDLE_BYTES: Final = 64
_LEAST_BYTES: Final = 2 << 20
"""Smaller pieces share one of this size, and a handle stands for the whole of it."""

Call = Callable[[str, bytes], bytes]
"""Calls a procedure of the server by its name."""


@contextlib.contextmanager
def registered(way: str, rows: NDArray[np.float32], call: Call, setting: Setting) -> Iterator[None]:
    """Have the server know the rows as the region NAME. `way` is one of the two."""
    on_gpu = way == CUDA_SHARED_MEMORY
    with _on_gpu(rows, call, setting) if on_gpu else _on_host(rows, call):
        try:
            yield
        finally:
            if on_gpu:
                gone = pb.CudaSharedMemoryUnregisterRequest(name=NAME).SerializeToString()
                call("CudaSharedMemoryUnregister", gone)
            else:
                gone = pb.SystemSharedMemoryUnregisterRequest(name=NAME).SerializeToString()
                call("SystemSharedMemoryUnregister", gone)


@contextlib.contextmanager
def _on_host(rows: NDArray[np.float32], call: Call) -> Iterator[None]:
    key = f"headrace-gpu-check-{os.getpid()}"
    (_FOLDER / key).write_bytes(rows.tobytes())
    try:
        named = pb.SystemSharedMemoryRegisterRequest(name=NAME, key=key, offset=0, byte_size=rows.nbytes)
        call("SystemSharedMemoryRegister", named.SerializeToString())
        yield
    finally:
        (_FOLDER / key).unlink()


@contextlib.contextmanager
def _on_gpu(rows: NDArray[np.float32], call: Call, setting: Setting) -> Iterator[None]:
    size = max(rows.nbytes, _LEAST_BYTES)
    with (
        opening.shared(setting) as gpu,
        gpu.use(gpu.generation) as driver,
        contextlib.closing(Device(driver)) as device,
    ):
        address, pinned = device.memory(size), device.pinned(size)
        stream, done = device.stream(), device.event()
        pinned[: rows.nbytes] = rows.reshape(-1).view(np.uint8)
        driver.copy_in(address, pinned, stream)
        driver.record(done, stream)
        driver.synchronize(done)
        named = pb.CudaSharedMemoryRegisterRequest(
            name=NAME, raw_handle=_handle(address), device_id=setting.gpu, byte_size=rows.nbytes
        )
        call("CudaSharedMemoryRegister", named.SerializeToString())
        yield


def _handle(address: int) -> bytes:
    """Return what stands for memory in other processes. Raises ImportError without cuda-python."""
    cuda: Any = importlib.import_module("cuda.bindings.driver")
    status, handle = cuda.cuIpcGetMemHandle(address)
    if int(status):
        raise RuntimeError(f"cuIpcGetMemHandle: CUDA says {status.name}")
    return ctypes.string_at(handle.getPtr(), _HANDLE_BYTES)
