"""What a fake GPU is beneath its driver's calls, and how tests have it go wrong."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from fake_memory import FREED, UNDEFINED, Block, Bytes, Memory, Misuse, Span, conflicts, views
from fake_streams import LATE, FakeEvent, FakeGraph, FakeStream, Operation, Order, Task, Timeline
from numpy.typing import NDArray

from headrace_engines.runtime.cuda import faults
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.cuda.driver import CudaError, Fault, GpuFacts

PATIENCE_SECONDS = 20.0
"""Longest wait for a kernel that a test holds; a test that waits this long has failed."""

_SHARED_HANDLE_BYTES = 64

Places = Sequence[tuple[int, int]]
"""Addresses with sizes in bytes."""


@dataclass(slots=True)
class _Failure:
    call: str
    name: str
    after: int
    times: int


class FakeDevice:
    """One GPU. `order` is LATE, EAGER or a seed; see `fake_streams`.

    `enqueue` puts a kernel into a stream, `inspect` says that the host touches an array now, `fail`, `lose`,
    `hold` and `let_go` have things go wrong, `share` is another process's memory, `calls` counts calls.
    """

    def __init__(
        self,
        order: Order = LATE,
        *,
        index: int = 0,
        total_bytes: int = 1 << 30,
        compute_capability: tuple[int, int] = (9, 0),
        name: str = "Fake GPU",
        driver: int = 13000,
    ) -> None:
        uuid = f"GPU-00000000-0000-0000-0000-{index:012d}"
        self.facts = GpuFacts(index, name, uuid, compute_capability, total_bytes, driver)
        self.calls: collections.Counter[str] = collections.Counter()
        self.misuses: list[Misuse] = []
        self.gpus: list[Gpu] = []
        self._order = order
        self._changed = threading.Condition(threading.RLock())
        self._retained = 0
        self._pushed: collections.Counter[int] = collections.Counter()
        self._failures: list[_Failure] = []
        self._sticky: str | None = None
        self._is_lost = False
        self._holds_next = False
        self._exported: dict[bytes, Bytes] = {}
        self._begin_context()

    def __enter__(self) -> FakeDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.check()
            if self._retained and not self._is_lost and not any(gpu.lost for gpu in self.gpus):
                raise Misuse("the context was not given up")

    def check(self) -> None:
        """Raise the first Misuse that there was."""
        if self.misuses:
            raise self.misuses[0]

    def enqueue(
        self,
        stream: int,
        reads: Places,
        writes: Places,
        compute: Callable[[list[Bytes], list[Bytes]], None],
        *,
        milliseconds: float = 0.01,
        label: str = "kernel",
    ) -> None:
        """Put a kernel into the stream of this handle, as a library does.

        When its turn comes, `compute` is given the bytes of `reads` and of `writes`, which it fills in place.
        It may raise CudaError.
        """
        with self._calling("enqueue"):
            read = tuple(self._anywhere(*place) for place in reads)
            written = tuple(self._anywhere(*place) for place in writes)
            task = Task(
                label,
                read,
                written,
                lambda: compute(views(read), views(written)),
                milliseconds,
                is_kernel=True,
            )
            self._put(task, self._by_handle(stream))

    def compute_beside(
        self, reads: Places, writes: Places, compute: Callable[[list[Bytes], list[Bytes]], None]
    ) -> None:
        """Do now what a library does beside all streams: Misuse where work uses it that nobody waited for."""
        with self._calling("compute_beside"):
            read = [self._anywhere(*place) for place in reads]
            written = [self._anywhere(*place) for place in writes]
            for spans, is_write in ((read, False), (written, True)):
                for span in spans:
                    for access in conflicts(span, is_write=is_write, known=self._timeline.known):
                        raise Misuse(f"a library uses {span.block} beside {access.label}")
            compute(views(read), views(written))

    def check_pushed(self, what: str) -> None:
        """Have it be a Misuse unless the thread has the context."""
        with self._calling(what, needs_context=False):
            if not self._pushed[threading.get_ident()]:
                raise Misuse(f"{what} on a thread that has not pushed the context")

    def is_capturing(self, stream: int) -> bool:
        """Whether what the stream of this handle is given is noted and not done."""
        with self._calling("is_capturing"):
            return self._by_handle(stream).capture is not None

    def inspect(self, array: NDArray[Any], *, writing: bool = False) -> None:
        """The host reads the array now, or writes it: Misuse if it is pinned and the GPU may still use it."""
        with self._calling("inspect", needs_context=False):
            what = f"the host {'writes' if writing else 'reads'}"
            low, high = np.lib.array_utils.byte_bounds(array)
            span = self._memory.at(low, high - low)
            if span is None or span.block.kind != "pinned":
                return
            if not span.block.is_live:
                raise Misuse(f"{what} freed {span.block}")
            for access in conflicts(span, is_write=writing, known=self._timeline.known):
                raise Misuse(f"{what} {span.block}, and nobody has waited for {access.label}")

    def fail(self, call: str, name: str, *, after: int = 0, times: int = 1) -> None:
        """Have calls of the method `call` fail with the driver's error `name`, the first `after` excepted.

        "kernel" fails kernels when their turn comes, which later calls tell. Errors that spoil the context
        stay until it is reset.
        """
        with self._changed:
            self._failures.append(_Failure(call, name, after, times))

    def lose(self, name: str = "CUDA_ERROR_DEVICE_UNAVAILABLE") -> None:
        """From now on nothing works, and a reset does not help."""
        with self._changed:
            self._is_lost = True
            self._spoil(name)

    def hold(self) -> None:
        """Have the next kernel go on until `let_go`."""
        with self._changed:
            self._holds_next = True

    def let_go(self) -> None:
        """End the kernels that were held."""
        with self._changed:
            self._holds_next = False
            self._timeline.let_go()
            self._changed.notify_all()

    def share(self, size_bytes: int) -> tuple[bytes, Bytes]:
        """Return the handle of another process's memory on the GPU, and its bytes."""
        with self._changed:
            handle = f"{self.facts.uuid} {len(self._exported)}".encode().ljust(_SHARED_HANDLE_BYTES, b"\0")
            self._exported[handle] = np.full(size_bytes, UNDEFINED, np.uint8)
            return handle, self._exported[handle]

    @contextlib.contextmanager
    def _calling(self, call: str, *, needs_context: bool = True, may_capture: bool = True) -> Iterator[None]:
        """What stands around every call: the lock, the thread's context, faults, and remembering a Misuse."""
        with self._changed:
            self.calls[call] += 1
            try:
                self._check_call(call, needs_context=needs_context, may_capture=may_capture)
                yield
            except Misuse as misuse:
                self.misuses.append(misuse)
                raise

    def _check_call(self, call: str, *, needs_context: bool, may_capture: bool) -> None:
        if needs_context and not self._pushed[threading.get_ident()]:
            raise Misuse(f"{call} from a thread that has not pushed the context")
        if not may_capture and self._captured_here():
            raise Misuse(f"{call} while the thread captures")
        self._inject(call)
        if needs_context:
            self._check_spoilt(call)

    def _inject(self, call: str) -> None:
        for failure in self._failures:
            if failure.call == call and failure.times:
                if failure.after:
                    failure.after -= 1
                    continue
                failure.times -= 1
                if faults.fault(failure.name) in (Fault.CONTEXT, Fault.DEVICE):
                    self._spoil(failure.name)
                raise faults.error(call, failure.name)  # kept by nothing here, or it would keep its frames

    def _spoil(self, name: str) -> None:
        self._sticky = self._sticky or name
        self._timeline.drop()
        self._changed.notify_all()

    def _check_spoilt(self, call: str) -> None:
        if self._sticky is not None:
            raise faults.error(call, self._sticky)

    def _begin_context(self) -> None:
        self._memory = Memory()
        self._timeline = Timeline(self._order)
        self._objects: dict[int, FakeStream | FakeEvent | FakeGraph] = {}
        self._opened: dict[bytes, tuple[int, int]] = {}

    def _end_context(self, *, is_reset: bool) -> None:
        if any(self._pushed.values()):
            raise Misuse(f"the context is {'reset' if is_reset else 'given up'} while a thread has it pushed")
        if not is_reset and self._sticky is None:
            left = [str(block) for block in self._memory.live()]
            left += [type(thing).__name__ for thing in self._objects.values()]
            if left:
                raise Misuse(f"left when the context was given up: {', '.join(left)}")
        self._timeline.drop()
        for block in self._memory.live():
            block.is_live = False
        for thing in self._objects.values():
            thing.is_live = False
        self._begin_context()

    def _own(self, *things: FakeStream | FakeEvent | FakeGraph) -> None:
        for thing in things:
            if thing.owner is not self:
                raise Misuse(f"{type(thing).__name__} of another driver")
            if not thing.is_live:
                raise Misuse(f"{type(thing).__name__} is used after its end")

    def _keep(self, thing: FakeStream | FakeEvent | FakeGraph) -> None:
        self._objects[id(thing)] = thing

    def _forget(self, thing: FakeStream | FakeEvent | FakeGraph) -> None:
        thing.is_live = False
        del self._objects[id(thing)]

    def _by_handle(self, handle: int) -> FakeStream:
        for thing in self._objects.values():
            if isinstance(thing, FakeStream) and thing.handle == handle:
                return thing
        raise Misuse(
            "the default stream is used" if handle in (0, 1, 2) else f"there is no stream {handle:#x}"
        )

    def _captured_here(self) -> bool:
        here = threading.get_ident()
        return any(
            isinstance(thing, FakeStream) and thing.capture is not None and thing.capture.thread == here
            for thing in self._objects.values()
        )

    def _span(self, address: int, size: int) -> Span:
        return self._memory.span(address, size, pinned=False)

    def _host(self, host: Bytes) -> Span:
        if host.dtype != np.uint8 or not host.flags.c_contiguous:
            raise Misuse(
                f"a copy of {host.dtype} that is {'' if host.flags.c_contiguous else 'not '}contiguous"
            )
        return self._memory.span(host.ctypes.data, host.nbytes, pinned=True)

    def _anywhere(self, address: int, size: int) -> Span:
        found = self._memory.at(address, size)
        return self._memory.span(address, size, pinned=found is not None and found.block.kind == "pinned")

    def _whole(self, address: int, kind: str) -> Block:
        found = self._memory.at(address, 0)
        if found is None or found.start or found.block.kind != kind:
            raise Misuse(f"{address:#x} is no {kind} memory")
        if not found.block.is_live:
            raise Misuse(f"{found.block} is freed twice")
        return found.block

    def _end(self, block: Block) -> None:
        self._do("free", self._timeline.drain)
        block.is_live = False
        if block.kind != "shared":
            block.data[:] = FREED

    def _do(self, call: str, work: Callable[[], bool]) -> None:
        """Have the timeline come so far, however long a kernel is held."""
        while not work():
            if not self._changed.wait(PATIENCE_SECONDS):
                raise Misuse(f"{call} waits for a kernel that nobody lets go")
            self._check_spoilt(call)
        self._check_spoilt(call)

    def _put(self, task: Task, stream: FakeStream) -> Operation | None:
        """Give the stream the task, or the capture if there is one; return its place in the stream."""
        self._own(stream)
        if stream.capture is not None:
            if stream.capture.thread != threading.get_ident():
                raise Misuse("another thread's capture is given work")
            stream.capture.tasks.append(task)
            return None
        if self._captured_here():
            raise Misuse(f"while the thread captures, {task.label} is given to a stream that is not captured")
        is_held = task.is_kernel and self._holds_next
        self._holds_next = self._holds_next and not is_held
        return self._timeline.put(self._watched(task), stream, is_held=is_held)

    def _watched(self, task: Task) -> Task:
        """Return the task with what is noticed of it only when its turn comes."""
        sources = [
            (span, span.data.copy())
            for span in task.reads
            if span.block.kind == "pinned" and not conflicts(span, is_write=False, known=self._timeline.known)
        ]

        def work() -> None:
            if any(not np.array_equal(span.data, sent) for span, sent in sources):
                self.misuses.append(Misuse(f"the host has written to what {task.label} had still to read"))
            try:
                if task.is_kernel:
                    self._inject("kernel")
                if task.work is not None:
                    task.work()
            except CudaError as error:
                self._spoil(error.name)
            except Exception as error:
                self.misuses.append(Misuse(f"{task.label} failed: {error!r}"))
                self._spoil("CUDA_ERROR_LAUNCH_FAILED")

        return dataclasses.replace(task, work=work)
