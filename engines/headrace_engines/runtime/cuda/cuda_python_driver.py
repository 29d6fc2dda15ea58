"""The driver through NVIDIA's cuda-python alone."""

from __future__ import annotations

import ctypes
from importlib import metadata
from typing import Any

from headrace_engines.runtime.cuda import bindings
from headrace_engines.runtime.cuda.bindings import check
from headrace_engines.runtime.cuda.driver import Bytes, GpuFacts


def gpus() -> tuple[GpuFacts, ...]:
    """Return the GPUs that CUDA shows. Raises ImportError or CudaError if it cannot be asked."""
    return bindings.gpus()


def driver(facts: GpuFacts) -> CudaPythonDriver:
    """Return the driver of one of them."""
    return CudaPythonDriver(facts)


class _Stream:
    """The stream as the library has it, and its address, which other libraries take."""

    __slots__ = ("handle", "native")

    def __init__(self, native: Any, handle: int) -> None:
        self.native = native
        self.handle = handle


class CudaPythonDriver:
    """`Driver`, in the words of cuda.bindings.driver."""

    def __init__(self, facts: GpuFacts) -> None:
        from cuda.bindings.utils import get_cuda_native_handle

        self.facts = facts
        self._cuda = bindings.load()
        self._device = bindings.device(self._cuda, facts.index)
        self._address_of = get_cuda_native_handle
        self._context: Any = None

    @property
    def name(self) -> str:
        """The library and its version."""
        return f"cuda-bindings {metadata.version('cuda-bindings')}"

    def retain(self) -> None:
        status, self._context = self._cuda.cuDevicePrimaryCtxRetain(self._device)
        check(self._cuda, "cuDevicePrimaryCtxRetain", status)

    def release(self) -> None:
        (status,) = self._cuda.cuDevicePrimaryCtxRelease(self._device)
        check(self._cuda, "cuDevicePrimaryCtxRelease", status)

    def reset(self) -> None:
        self._cuda.cuDevicePrimaryCtxRelease(self._device)
        bindings.reset(self._cuda, self._device)
        self.retain()

    def push(self) -> None:
        (status,) = self._cuda.cuCtxPushCurrent(self._context)
        if status:
            raise bindings.error(self._cuda, "cuCtxPushCurrent", status)

    def pop(self) -> None:
        status, _ = self._cuda.cuCtxPopCurrent()
        if status:
            raise bindings.error(self._cuda, "cuCtxPopCurrent", status)

    def free_bytes(self) -> int:
        status, free, _ = self._cuda.cuMemGetInfo()
        check(self._cuda, "cuMemGetInfo", status)
        return int(free)

    def allocate(self, size_bytes: int) -> int:
        status, address = self._cuda.cuMemAlloc(size_bytes)
        check(self._cuda, "cuMemAlloc", status)
        return int(address)

    def free(self, address: int) -> None:
        (status,) = self._cuda.cuMemFree(address)
        check(self._cuda, "cuMemFree", status)

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        return bindings.allocate_pinned(self._cuda, size_bytes)

    def free_pinned(self, memory: Bytes) -> None:
        bindings.free_pinned(self._cuda, memory)

    def stream(self) -> _Stream:
        status, native = self._cuda.cuStreamCreate(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        check(self._cuda, "cuStreamCreate", status)
        return _Stream(native, self._address_of(native))

    def destroy_stream(self, stream: Any) -> None:
        (status,) = self._cuda.cuStreamDestroy(stream.native)
        check(self._cuda, "cuStreamDestroy", status)

    def event(self) -> Any:
        status, event = self._cuda.cuEventCreate(self._cuda.CUevent_flags.CU_EVENT_BLOCKING_SYNC)
        check(self._cuda, "cuEventCreate", status)
        return event

    def destroy_event(self, event: Any) -> None:
        (status,) = self._cuda.cuEventDestroy(event)
        check(self._cuda, "cuEventDestroy", status)

    def record(self, event: Any, stream: Any) -> None:
        (status,) = self._cuda.cuEventRecord(event, stream.native)
        if status:
            raise bindings.error(self._cuda, "cuEventRecord", status)

    def wait_event(self, stream: Any, event: Any) -> None:
        (status,) = self._cuda.cuStreamWaitEvent(stream.native, event, 0)
        if status:
            raise bindings.error(self._cuda, "cuStreamWaitEvent", status)

    def synchronize(self, event: Any) -> None:
        (status,) = self._cuda.cuEventSynchronize(event)
        if status:
            raise bindings.error(self._cuda, "cuEventSynchronize", status)

    def is_done(self, event: Any) -> bool:
        (status,) = self._cuda.cuEventQuery(event)
        if status and status is not self._cuda.CUresult.CUDA_ERROR_NOT_READY:
            raise bindings.error(self._cuda, "cuEventQuery", status)
        return not status

    def milliseconds(self, earlier: Any, later: Any) -> float:
        status, milliseconds = self._cuda.cuEventElapsedTime(earlier, later)
        if status:
            raise bindings.error(self._cuda, "cuEventElapsedTime", status)
        return float(milliseconds)

    def copy_in(self, address: int, host: Bytes, stream: Any) -> None:
        (status,) = self._cuda.cuMemcpyHtoDAsync(address, host, host.nbytes, stream.native)
        if status:
            raise bindings.error(self._cuda, "cuMemcpyHtoDAsync", status)

    def copy_out(self, host: Bytes, address: int, stream: Any) -> None:
        (status,) = self._cuda.cuMemcpyDtoHAsync(host, address, host.nbytes, stream.native)
        if status:
            raise bindings.error(self._cuda, "cuMemcpyDtoHAsync", status)

    def copy_within(self, to: int, source: int, size_bytes: int, stream: Any) -> None:
        (status,) = self._cuda.cuMemcpyDtoDAsync(to, source, size_bytes, stream.native)
        if status:
            raise bindings.error(self._cuda, "cuMemcpyDtoDAsync", status)

    def zero(self, address: int, size_bytes: int, stream: Any) -> None:
        (status,) = self._cuda.cuMemsetD8Async(address, 0, size_bytes, stream.native)
        check(self._cuda, "cuMemsetD8Async", status)

    def begin_capture(self, stream: Any) -> None:
        bindings.begin_capture(self._cuda, stream.native)

    def end_capture(self, stream: Any) -> Any:
        return bindings.end_capture(self._cuda, stream.native)

    def launch(self, graph: Any, stream: Any) -> None:
        bindings.launch(self._cuda, graph, stream.native)

    def destroy_graph(self, graph: Any) -> None:
        bindings.destroy_graph(self._cuda, graph)

    def open_shared(self, handle: bytes) -> tuple[int, int]:
        bindings.check_handle(handle)
        native = self._cuda.CUipcMemHandle()
        ctypes.memmove(native.getPtr(), handle, bindings.HANDLE_BYTES)
        flags = self._cuda.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
        status, address = self._cuda.cuIpcOpenMemHandle(native, flags)
        check(self._cuda, "cuIpcOpenMemHandle", status)
        status, base, size = self._cuda.cuMemGetAddressRange(address)
        if status:
            self._cuda.cuIpcCloseMemHandle(address)
        check(self._cuda, "cuMemGetAddressRange", status)
        return int(address), int(base) + int(size) - int(address)

    def close_shared(self, address: int) -> None:
        (status,) = self._cuda.cuIpcCloseMemHandle(address)
        check(self._cuda, "cuIpcCloseMemHandle", status)
