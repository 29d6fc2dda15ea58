"""The driver through PyCUDA, with cuda-python for what it lacks: graphs, resetting, pinning pages of ours.

PyCUDA has habits that this module answers. It destroys an object when Python does, and only where its
context is on the thread: so each object is held by one wrapper, which lets it go inside the call that ends
it. Objects of a context that has ended must not be destroyed at all: `detach` tells PyCUDA that it has. And
a thread that ends with contexts on PyCUDA's stack ends the process: so the stack is emptied even where the
driver fails to take the context from the thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from importlib import metadata
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from headrace_engines.runtime.cuda import bindings, faults
from headrace_engines.runtime.cuda.driver import Bytes, CudaError, Fault, GpuFacts

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA has no name for."""

P = ParamSpec("P")
T = TypeVar("T")


def gpus() -> tuple[GpuFacts, ...]:
    """Return the GPUs that CUDA shows. Raises ImportError or CudaError if it cannot be asked."""
    _load()
    return bindings.gpus()


def driver(facts: GpuFacts) -> PycudaDriver:
    """Return the driver of one of them."""
    return PycudaDriver(facts)


def _load() -> Any:
    from pycuda import driver as cuda

    try:
        cuda.init()
    except cuda.Error as error:
        # The bindings may be missing, whose names for errors `_told` asks for.
        raise CudaError("cuInit", "no GPU", Fault.CALL, str(error)) from error
    return cuda


def _told(cuda: Any, error: Exception) -> CudaError:
    """Return the driver's error behind PyCUDA's, which tells the function and the driver's text for it.

    Where that is none of the driver's, its class tells, or else the driver is asked whether it has met one.
    """
    call, _, text = str(error).partition(" failed: ")
    text, _, _ = text.partition(" - ")  # what PyCUDA has to add
    name = bindings.names_by_text().get(text)
    if name is None and isinstance(error, cuda.MemoryError):
        name = "CUDA_ERROR_OUT_OF_MEMORY"
    elif name is None and isinstance(error, cuda.LaunchError):
        name = "CUDA_ERROR_LAUNCH_FAILED"
    return faults.error(call, name or bindings.met() or type(error).__name__, text)


def _telling(method: Callable[Concatenate[PycudaDriver, P], T]) -> Callable[Concatenate[PycudaDriver, P], T]:
    @functools.wraps(method)
    def call(self: PycudaDriver, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except self._cuda.Error as error:
            raise _told(self._cuda, error) from error

    return call


class _Held:
    """The one reference to an object of PyCUDA's; `handle` is a stream's address."""

    __slots__ = ("handle", "native")

    def __init__(self, native: Any, handle: int = 0) -> None:
        self.native = native
        self.handle = handle


class PycudaDriver:
    """`Driver`, in the words of pycuda.driver."""

    def __init__(self, facts: GpuFacts) -> None:
        self.facts = facts
        self._cuda = _load()
        self._bindings = bindings.load()
        self._device = self._cuda.Device(facts.index)
        self._context: Any = None
        self._memory: dict[int, Any] = {}
        self._shared: dict[int, list[Any]] = {}

    @property
    def name(self) -> str:
        """The libraries and their versions."""
        return f"pycuda {metadata.version('pycuda')} and cuda-bindings {metadata.version('cuda-bindings')}"

    @_telling
    def retain(self) -> None:
        self._context = self._device.retain_primary_context()

    def release(self) -> None:
        # Detaching leaves the context on CUDA's stack of the thread, so the thread is one of its own.
        thread = threading.Thread(target=_give_up, args=(self._cuda, self._context))
        thread.start()
        thread.join()
        self._context = None
        self._memory.clear()
        self._shared.clear()

    @_telling
    def reset(self) -> None:
        self.release()
        bindings.reset(self._bindings, bindings.device(self._bindings, self.facts.index))
        self._context = self._device.retain_primary_context()

    @_telling
    def push(self) -> None:
        self._context.push()

    def pop(self) -> None:
        try:
            self._cuda.Context.pop()
        except self._cuda.Error as error:
            _detach(self._cuda, self._context)
            text = "it could not be taken from the thread"
            raise CudaError("cuCtxPopCurrent", _told(self._cuda, error).name, Fault.CONTEXT, text) from error

    @_telling
    def free_bytes(self) -> int:
        return int(self._cuda.mem_get_info()[0])

    @_telling
    def allocate(self, size_bytes: int) -> int:
        memory = self._cuda.mem_alloc(size_bytes)
        self._memory[int(memory)] = memory
        return int(memory)

    @_telling
    def free(self, address: int) -> None:
        self._memory.pop(address).free()

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        return bindings.allocate_pinned(self._bindings, size_bytes)

    def free_pinned(self, memory: Bytes) -> None:
        bindings.free_pinned(self._bindings, memory)

    @_telling
    def stream(self) -> _Held:
        native = self._cuda.Stream(_NON_BLOCKING)
        return _Held(native, native.handle)

    def destroy_stream(self, stream: Any) -> None:
        del stream.native

    @_telling
    def event(self) -> _Held:
        return _Held(self._cuda.Event(self._cuda.event_flags.BLOCKING_SYNC))

    def destroy_event(self, event: Any) -> None:
        del event.native

    def record(self, event: Any, stream: Any) -> None:
        try:
            event.native.record(stream.native)
        except self._cuda.Error as error:
            raise _told(self._cuda, error) from error

    def wait_event(self, stream: Any, event: Any) -> None:
        try:
            stream.native.wait_for_event(event.native)
        except self._cuda.Error as error:
            raise _told(self._cuda, error) from error

    def synchronize(self, event: Any) -> None:
        try:
            event.native.synchronize()
        except self._cuda.Error as error:
            raise _told(self._cuda, error) from error

    @_telling
    def is_done(self, event: Any) -> bool:
        return bool(event.native.query())

    @_telling
    def milliseconds(self, earlier: Any, later: Any) -> float:
        return float(earlier.native.time_till(later.native))

    def copy_in(self, address: int, host: Bytes, stream: Any) -> None:
        try:
            self._cuda.memcpy_htod_async(address, host, stream.native)
        except self._cuda.Error as error:
            raise _told(self._cuda, error) from error

    def copy_out(self, host: Bytes, address: int, stream: Any) -> None:
        try:
            self._cuda.memcpy_dtoh_async(host, address, stream.native)
        except self._cuda.Error as error:
            raise _told(self._cuda, error) from error

    @_telling
    def copy_within(self, to: int, source: int, size_bytes: int, stream: Any) -> None:
        self._cuda.memcpy_dtod_async(to, source, size_bytes, stream.native)

    @_telling
    def zero(self, address: int, size_bytes: int, stream: Any) -> None:
        self._cuda.memset_d8_async(address, 0, size_bytes, stream.native)

    def begin_capture(self, stream: Any) -> None:
        bindings.begin_capture(self._bindings, stream.handle)

    def end_capture(self, stream: Any) -> Any:
        return bindings.end_capture(self._bindings, stream.handle)

    def launch(self, graph: Any, stream: Any) -> None:
        bindings.launch(self._bindings, graph, stream.handle)

    def destroy_graph(self, graph: Any) -> None:
        bindings.destroy_graph(self._bindings, graph)

    @_telling
    def open_shared(self, handle: bytes) -> tuple[int, int]:
        bindings.check_handle(handle)
        opened = self._cuda.IPCMemoryHandle(bytearray(handle))
        address = int(opened)
        base, size_bytes = self._cuda.mem_get_address_range(address)
        self._shared.setdefault(address, []).append(opened)
        return address, int(base) + int(size_bytes) - address

    @_telling
    def close_shared(self, address: int) -> None:
        self._shared[address].pop().close()


def _give_up(cuda: Any, context: Any) -> None:
    """Detach from the context, whatever state it is in."""
    with contextlib.suppress(cuda.Error):
        context.push()
    _detach(cuda, context)


def _detach(cuda: Any, context: Any) -> None:
    """Have PyCUDA destroy nothing of the context any more, and take it off PyCUDA's stack of the thread."""
    with contextlib.suppress(cuda.Error):
        context.detach()
    cuda.Context.get_current()  # looks for one that is not detached, and forgets the others
