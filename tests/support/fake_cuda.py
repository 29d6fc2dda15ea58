"""A driver that does on the host what a GPU would do, in an order that shows what a program forgot.

    with FakeDriver(seed) as driver:
        gpu = fake_gpu(driver)
        ...
        gpu.close()

What a real GPU answers with wrong numbers, a crash or a leak is a `Misuse` here, at the call if it can be
known there, and again when the `with` statement ends, in case the program has swallowed it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator

import pytest
from fake_device import FakeDevice
from fake_memory import Bytes, Misuse, Span, conflicts
from fake_streams import EAGER, LATE, Capture, FakeEvent, FakeGraph, FakeStream, Order, Task

from headrace_engines.runtime.cuda import faults, gpu
from headrace_engines.runtime.cuda.driver import Driver, GpuFacts
from headrace_engines.runtime.cuda.gpu import Gpu
from headrace_engines.runtime.cuda.pools import Pools

__all__ = ["EAGER", "LATE", "FakeDriver", "Misuse", "Order", "fake_gpu", "present"]

_PER_MILLISECOND = 25_000_000
"""Bytes copied: what PCI Express 4 does."""
_handles = itertools.count(0x5000, 16)


class FakeDriver(FakeDevice):
    """The driver of a fake GPU; `FakeDevice` has what only tests know."""

    name = "fake 1.0"

    def __enter__(self) -> FakeDriver:
        return self

    def retain(self) -> None:
        with self._calling("retain", needs_context=False):
            self._retained += 1

    def release(self) -> None:
        with self._calling("release", needs_context=False):
            if not self._retained:
                raise Misuse("the context is given up and was not retained")
            self._retained -= 1
            if self._retained == 0:
                self._end_context(is_reset=False)

    def reset(self) -> None:
        with self._calling("reset", needs_context=False):
            if self._is_lost:
                self._check_spoilt("reset")
            if not self._retained:
                raise Misuse("the context is reset and was not retained")
            self._end_context(is_reset=True)
            self._sticky = None

    def push(self) -> None:
        with self._calling("push", needs_context=False):
            if not self._retained:
                raise Misuse("the context is pushed and was not retained")
            self._pushed[threading.get_ident()] += 1

    def pop(self) -> None:
        with self._calling("pop", needs_context=False):
            if not self._pushed[threading.get_ident()]:
                raise Misuse("the thread pops a context that it has not pushed")
            self._pushed[threading.get_ident()] -= 1

    def free_bytes(self) -> int:
        with self._calling("free_bytes"):
            return self.facts.total_bytes - self._memory.device_bytes()

    def allocate(self, size_bytes: int) -> int:
        with self._calling("allocate", may_capture=False):
            if size_bytes <= 0:
                raise Misuse(f"{size_bytes} bytes are allocated")
            if self._memory.device_bytes() + size_bytes > self.facts.total_bytes:
                raise faults.error("allocate", "CUDA_ERROR_OUT_OF_MEMORY")
            return self._memory.add_device(size_bytes).address

    def free(self, address: int) -> None:
        with self._calling("free", may_capture=False):
            self._end(self._whole(address, "device"))

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        with self._calling("allocate_pinned", may_capture=False):
            if size_bytes <= 0:
                raise Misuse(f"{size_bytes} bytes are allocated")
            return self._memory.add_pinned(size_bytes).data

    def free_pinned(self, memory: Bytes) -> None:
        with self._calling("free_pinned", may_capture=False):
            block = self._whole(memory.ctypes.data, "pinned")
            whole = Span(block, 0, block.data.nbytes)
            for access in conflicts(whole, is_write=True, known=self._timeline.known):
                raise Misuse(f"{block} is freed, and nobody has waited for {access.label}")
            self._end(block)

    def stream(self) -> FakeStream:
        with self._calling("stream"):
            stream = FakeStream(next(_handles), self)
            self._timeline.add(stream)
            self._keep(stream)
            return stream

    def destroy_stream(self, stream: FakeStream) -> None:
        with self._calling("destroy_stream"):
            self._own(stream)
            if stream.capture is not None:
                raise Misuse("a stream is destroyed that is being captured")
            self._do("destroy_stream", lambda: self._timeline.drain([stream]))
            self._timeline.remove(stream)
            self._forget(stream)

    def event(self) -> FakeEvent:
        with self._calling("event"):
            event = FakeEvent(self)
            self._keep(event)
            return event

    def destroy_event(self, event: FakeEvent) -> None:
        with self._calling("destroy_event"):
            self._own(event)
            self._forget(event)

    def record(self, event: FakeEvent, stream: FakeStream) -> None:
        with self._calling("record"):
            self._own(event, stream)
            if stream.capture is not None:
                raise Misuse("an event recorded while capturing does not happen when the graph is launched")
            event.recorded = self._put(Task("an event"), stream)

    def wait_event(self, stream: FakeStream, event: FakeEvent) -> None:
        with self._calling("wait_event"):
            self._own(event, stream)
            if stream.capture is not None:
                raise Misuse("a stream that is captured waits for an event of work that is not")
            if event.recorded is not None:
                self._timeline.wait(stream, event.recorded)

    def synchronize(self, event: FakeEvent) -> None:
        with self._calling("synchronize", may_capture=False):
            self._own(event)
            mark = event.recorded
            if mark is not None:
                self._do("synchronize", lambda: self._timeline.finish(mark))
                self._timeline.know(mark)

    def is_done(self, event: FakeEvent) -> bool:
        with self._calling("is_done", may_capture=False):
            self._own(event)
            mark = event.recorded
            if mark is None:
                return True
            is_over = self._timeline.advance(mark)
            self._check_spoilt("is_done")
            if is_over:
                self._timeline.know(mark)
            return is_over

    def milliseconds(self, earlier: FakeEvent, later: FakeEvent) -> float:
        with self._calling("milliseconds"):
            self._own(earlier, later)
            marks = [event.recorded for event in (earlier, later) if event.recorded is not None]
            if len(marks) < 2 or not all(map(self._timeline.is_known, marks)):
                raise Misuse("the time of an event is asked for that nobody has waited for")
            return marks[1].ends_at - marks[0].ends_at

    def copy_in(self, address: int, host: Bytes, stream: FakeStream) -> None:
        with self._calling("copy_in"):
            self._copy("a copy to the GPU", self._host(host), self._span(address, host.nbytes), stream)

    def copy_out(self, host: Bytes, address: int, stream: FakeStream) -> None:
        with self._calling("copy_out"):
            self._copy("a copy from the GPU", self._span(address, host.nbytes), self._host(host), stream)

    def copy_within(self, to: int, source: int, size_bytes: int, stream: FakeStream) -> None:
        with self._calling("copy_within"):
            self._copy("a copy", self._span(source, size_bytes), self._span(to, size_bytes), stream)

    def _copy(self, label: str, source: Span, target: Span, stream: FakeStream) -> None:
        def work() -> None:
            target.data[:] = source.data

        milliseconds = 0.001 + source.data.nbytes / _PER_MILLISECOND
        self._put(Task(label, (source,), (target,), work, milliseconds), stream)

    def zero(self, address: int, size_bytes: int, stream: FakeStream) -> None:
        with self._calling("zero"):
            span = self._span(address, size_bytes)
            self._put(Task("zeroing", (), (span,), lambda: span.data.fill(0), 0.001), stream)

    def begin_capture(self, stream: FakeStream) -> None:
        with self._calling("begin_capture"):
            self._own(stream)
            if stream.capture is not None or self._captured_here():
                raise Misuse("a capture is begun inside another")
            stream.capture = Capture(threading.get_ident())

    def end_capture(self, stream: FakeStream) -> FakeGraph:
        with self._changed:
            capture, stream.capture = stream.capture, None
            with self._calling("end_capture"):
                if capture is None or capture.thread != threading.get_ident():
                    raise Misuse("a capture is ended that this thread has not begun")
                graph = FakeGraph(self, tuple(capture.tasks))
                self._keep(graph)
                return graph

    def launch(self, graph: FakeGraph, stream: FakeStream) -> None:
        with self._calling("launch"):
            self._own(graph, stream)
            for task in graph.tasks:
                for span in (*task.reads, *task.writes):
                    if not span.block.is_live:
                        raise Misuse(f"a graph is launched whose {task.label} uses freed {span.block}")
            for task in graph.tasks:
                self._put(task, stream)

    def destroy_graph(self, graph: FakeGraph) -> None:
        with self._calling("destroy_graph"):
            self._own(graph)
            self._forget(graph)

    def open_shared(self, handle: bytes) -> tuple[int, int]:
        with self._calling("open_shared", may_capture=False):
            if handle not in self._exported:
                raise faults.error("open_shared", "CUDA_ERROR_INVALID_VALUE")
            address, times = self._opened.get(handle, (0, 0))
            if not times:
                address = self._memory.add_shared(self._exported[handle]).address
            self._opened[handle] = address, times + 1
            return address, self._exported[handle].nbytes

    def close_shared(self, address: int) -> None:
        with self._calling("close_shared", may_capture=False):
            block = self._whole(address, "shared")
            handle = next(handle for handle, (opened, _) in self._opened.items() if opened == address)
            times = self._opened[handle][1] - 1
            self._opened[handle] = address, times
            if not times:
                self._end(block)


def fake_gpu(driver: FakeDriver, pools: Pools | None = None) -> Gpu:
    """Return a GPU over the driver, with one user, who closes it."""
    driver.retain()
    made = Gpu(driver, pools or Pools())
    driver.gpus.append(made)
    return made


@contextlib.contextmanager
def present(*drivers: FakeDriver) -> Iterator[None]:
    """Have this process find these GPUs, and no other."""
    with pytest.MonkeyPatch.context() as patch:
        found = gpu.Found(tuple(driver.facts for driver in drivers), _FakeLibrary(drivers), "CUDA shows none")
        patch.setattr(gpu, "_found", lambda: found)
        patch.setattr(gpu, "_opened", {})
        yield
        for driver in drivers:
            driver.gpus += [opened for opened in gpu._opened.values() if opened.facts is driver.facts]


class _FakeLibrary:
    def __init__(self, drivers: tuple[FakeDriver, ...]) -> None:
        self._drivers = drivers

    def gpus(self) -> tuple[GpuFacts, ...]:
        return tuple(driver.facts for driver in self._drivers)

    def driver(self, facts: GpuFacts) -> Driver:
        return next(driver for driver in self._drivers if driver.facts is facts)
