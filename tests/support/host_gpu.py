"""What a driver does with its library's real functions, over a CUDA that is the host (`host_libcuda.c`).

    host_gpu.py cuda_python_driver|pycuda_driver

It is executed with that CUDA where the dynamic linker finds it, does all of CHECKS, and prints as JSON what
each of them met: nothing, or the error.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import threading
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from headrace_engines.errors import EngineSpoilt
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.cuda.driver import CudaError, Driver, Fault
from headrace_engines.runtime.cuda.pools import Pools

SIZE = 5000
ILLEGAL_ADDRESS = 700
LAUNCH_FAILED = 719
PATIENCE_SECONDS = 20.0
KINDS = range(1, 8)


class Inside:
    """Everything that copies take, in a context that is the thread's."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        driver.retain()
        driver.push()
        self.sent, self.received = driver.allocate_pinned(SIZE), driver.allocate_pinned(SIZE)
        self.first, self.second = driver.allocate(SIZE), driver.allocate(SIZE)
        self.stream = driver.stream()
        self.begun, self.done = driver.event(), driver.event()
        self.sent[:] = np.arange(SIZE) % 251

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        for event in (self.begun, self.done):
            self.driver.destroy_event(event)
        self.driver.destroy_stream(self.stream)
        for address in (self.first, self.second):
            self.driver.free(address)
        for memory in (self.sent, self.received):
            self.driver.free_pinned(memory)
        self.driver.pop()
        self.driver.release()


def met(work: Callable[[], object]) -> CudaError:
    """Return the error that the work meets."""
    with pytest.raises(CudaError) as caught:
        work()
    return caught.value


def in_a_thread(work: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def the_gpu_is_found(library: ModuleType, host: Any) -> None:
    (facts,) = library.gpus()
    assert facts.name == "Host GPU"
    assert facts.uuid == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert (facts.architecture, facts.total_bytes, facts.driver) == ("sm90", 1 << 24, 13000)
    assert "cuda-bindings" in library.driver(facts).name


def bytes_go_there_and_back(library: ModuleType, host: Any) -> None:
    with Inside(library.driver(library.gpus()[0])) as own:
        driver, stream = own.driver, own.stream
        assert stream.handle > 2
        assert driver.free_bytes() == (1 << 24) - 2 * SIZE
        driver.record(own.begun, stream)
        driver.copy_in(own.first, own.sent, stream)
        driver.wait_event(stream, own.begun)
        driver.copy_within(own.second, own.first, SIZE, stream)
        driver.copy_out(own.received[: SIZE - 1], own.second, stream)
        driver.record(own.done, stream)
        driver.synchronize(own.done)
        assert driver.is_done(own.done)
        assert driver.milliseconds(own.begun, own.done) >= 0
        assert (own.received[:-1] == own.sent[:-1]).all()
        assert own.received[-1] == 0


def a_graph_is_noted_and_launched(library: ModuleType, host: Any) -> None:
    with Inside(library.driver(library.gpus()[0])) as own:
        driver, stream = own.driver, own.stream
        own.received[:] = 7
        driver.begin_capture(stream)
        driver.copy_in(own.first, own.sent, stream)
        driver.zero(own.first, 10, stream)
        driver.copy_out(own.received, own.first, stream)
        graph = driver.end_capture(stream)
        assert (own.received == 7).all()
        driver.launch(graph, stream)
        assert not own.received[:10].any()
        assert (own.received[10:] == own.sent[10:]).all()
        driver.destroy_graph(graph)


def a_capture_that_fails_leaves_the_stream(library: ModuleType, host: Any) -> None:
    with Inside(library.driver(library.gpus()[0])) as own:
        own.driver.begin_capture(own.stream)
        host.host_fail(b"cuStreamEndCapture", 901, 0)
        assert met(lambda: own.driver.end_capture(own.stream)).name == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        own.driver.copy_in(own.first, own.sent, own.stream)


def shared_memory_is_opened(library: ModuleType, host: Any) -> None:
    with Inside(library.driver(library.gpus()[0])) as own:
        host.host_shared_handle.restype = ctypes.c_void_p
        handle = ctypes.string_at(host.host_shared_handle(), 64)
        address, size_bytes = own.driver.open_shared(handle)
        assert size_bytes == 4096
        own.driver.copy_in(address, own.sent[:4096], own.stream)
        own.driver.close_shared(address)
        for bad in (b"\0" * 64, b"short"):
            assert met(lambda bad=bad: own.driver.open_shared(bad)).name == "CUDA_ERROR_INVALID_VALUE"


def errors_have_their_names(library: ModuleType, host: Any) -> None:
    with Inside(library.driver(library.gpus()[0])) as own:
        pageable = np.zeros(SIZE, np.uint8)
        error = met(lambda: own.driver.copy_in(own.first, pageable, own.stream))
        assert (error.name, error.fault) == ("CUDA_ERROR_INVALID_VALUE", Fault.CALL)
        assert "cuMemcpyHtoDAsync" in str(error)
        error = met(lambda: own.driver.allocate(1 << 40))
        assert (error.name, error.fault) == ("CUDA_ERROR_OUT_OF_MEMORY", Fault.MEMORY)
        host.host_fail(b"cuMemHostRegister_v2", 2, 0)
        assert met(lambda: own.driver.allocate_pinned(1)).fault is Fault.MEMORY


def waiting_lets_other_threads_go_on(library: ModuleType, host: Any) -> None:
    """With the interpreter's lock held while it waits, nobody would be left to end the wait."""
    with Inside(library.driver(library.gpus()[0])) as own:
        own.driver.record(own.done, own.stream)
        host.host_hold(1)
        assert not own.driver.is_done(own.done)
        threading.Timer(0.05, lambda: host.host_hold(0)).start()
        own.driver.synchronize(own.done)


def objects_may_end_on_another_thread(library: ModuleType, host: Any) -> None:
    own = Inside(library.driver(library.gpus()[0]))
    own.driver.pop()

    def end() -> None:
        own.driver.push()
        own.__exit__()

    in_a_thread(end)


def an_error_is_survived_in_a_fresh_context(library: ModuleType, host: Any) -> None:
    driver = library.driver(library.gpus()[0])
    driver.retain()
    gpu = Gpu(driver, Pools())
    with gpu.use(1) as inside:
        stream, event = inside.stream(), inside.event()
        address, memory = gpu.memory.allocate(SIZE), gpu.memory.allocate_pinned(SIZE)
    host.host_fail(b"cuMemcpyHtoDAsync_v2", ILLEGAL_ADDRESS, 0)
    with pytest.raises(EngineSpoilt, match="CUDA_ERROR_ILLEGAL_ADDRESS"), gpu.use(1) as inside:
        inside.copy_in(address, memory, stream)
    in_a_thread(lambda: gpu.renew(1))
    del stream, event
    memory[:] = 1  # whoever still has it does no harm
    with gpu.use(2) as inside:
        inside.destroy_stream(inside.stream())
    gpu.close()


def a_context_that_cannot_be_taken_ends_nothing_else(library: ModuleType, host: Any) -> None:
    driver = library.driver(library.gpus()[0])
    driver.retain()

    def work() -> None:
        driver.push()
        host.host_fail(b"cuCtxPopCurrent_v2", LAUNCH_FAILED, 0)
        assert met(driver.pop).fault is Fault.CONTEXT

    in_a_thread(work)
    driver.reset()
    driver.push()
    driver.destroy_event(driver.event())
    driver.pop()
    driver.release()


CHECKS: tuple[Callable[[ModuleType, Any], None], ...] = (
    the_gpu_is_found,
    bytes_go_there_and_back,
    a_graph_is_noted_and_launched,
    a_capture_that_fails_leaves_the_stream,
    shared_memory_is_opened,
    errors_have_their_names,
    waiting_lets_other_threads_go_on,
    objects_may_end_on_another_thread,
    an_error_is_survived_in_a_fresh_context,
    a_context_that_cannot_be_taken_ends_nothing_else,
)


def main(name: str) -> None:
    library = importlib.import_module(f"headrace_engines.runtime.cuda.{name}")
    host = ctypes.CDLL("libcuda.so.1")
    results: dict[str, str] = {}
    for check in CHECKS:
        try:
            check(library, host)
            left = [kind for kind in KINDS if host.host_live(kind)]
            assert not left, f"left: {left}"
            assert host.host_depth() == 0, "a context is still the thread's"
            assert host.host_retained() == 0, "the context was not given up"
            results[check.__name__] = ""
        except BaseException:
            results[check.__name__] = traceback.format_exc()
            break  # what it has left would disturb the rest
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
