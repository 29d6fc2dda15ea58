"""The order in which a fake GPU does what it was given: as late as it may, at once, or at random.

A stream's work is done in turn; between streams only events make an order. What is not demanded by an
event that somebody waits for need not have been done, and a program that is right does not notice.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fake_memory import Access, Clock, Misuse, Span, conflicts, forget, merged

LATE = "late"
EAGER = "eager"
Order = int | str
"""LATE, EAGER, or the seed of a random order between the two."""


@dataclass(slots=True, eq=False)
class FakeStream:
    """A stream; its handle is what libraries are given."""

    handle: int
    owner: object
    is_live: bool = True
    clock: dict[int, int] = field(default_factory=dict)
    awaited: list[Operation] = field(default_factory=list)
    queue: deque[Operation] = field(default_factory=deque)
    last: Operation | None = None
    capture: Capture | None = None


@dataclass(slots=True, eq=False)
class FakeEvent:
    """An event, and the place in a stream where it was last recorded."""

    owner: object
    is_live: bool = True
    recorded: Operation | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is to be done, wherever it is put: copies, kernels, and the marks of events, which do nothing."""

    label: str
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    work: Callable[[], None] | None = None
    milliseconds: float = 0.0
    is_kernel: bool = False


@dataclass(slots=True, eq=False)
class Operation:
    """A task in its place in a stream."""

    task: Task
    stream: FakeStream
    clock: Clock
    after: tuple[Operation, ...]
    is_done: bool = False
    is_held: bool = False
    ends_at: float = 0.0


@dataclass(slots=True, eq=False)
class Capture:
    """What a thread has put into a stream since it began to note it."""

    thread: int
    tasks: list[Task] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class FakeGraph:
    """What was noted."""

    owner: object
    tasks: tuple[Task, ...]
    is_live: bool = True


class Timeline:
    """All streams' work, done and to be done. Its owner has it to itself at each call."""

    def __init__(self, order: Order) -> None:
        self.known: dict[int, int] = {}
        """What the host knows to be over."""
        self._order = order
        self._random = random.Random(order if isinstance(order, int) else 0)
        self._streams: list[FakeStream] = []

    def add(self, stream: FakeStream) -> None:
        self._streams.append(stream)

    def remove(self, stream: FakeStream) -> None:
        self._streams.remove(stream)

    def put(self, task: Task, stream: FakeStream, *, is_held: bool = False) -> Operation:
        """Give the stream the task. Misuse if what it touches may still be touched by other work."""
        clock = merged(stream.clock, self.known)
        for spans, is_write in ((task.reads, False), (task.writes, True)):
            for span in spans:
                forget(span.block, self.known)
                for other in conflicts(span, is_write=is_write, known=clock):
                    does = "writes" if is_write else "reads"
                    raise Misuse(
                        f"{task.label} {does} {span.block}, in no order with {other.label} of another stream"
                    )
        operation = self._place(task, stream, clock)
        operation.is_held = is_held
        if self._order == EAGER:
            self.finish(operation)
        elif self._order != LATE:
            self._wander()
        return operation

    def _place(self, task: Task, stream: FakeStream, clock: dict[int, int]) -> Operation:
        tick = clock[stream.handle] = clock.get(stream.handle, 0) + 1
        stream.clock = clock
        operation = Operation(task, stream, dict(clock), tuple(stream.awaited))
        stream.awaited = []
        stream.queue.append(operation)
        for spans, is_write in ((task.reads, False), (task.writes, True)):
            for span in spans:
                span.block.accesses.append(
                    Access(span.start, span.stop, is_write, stream.handle, tick, task.label)
                )
        return operation

    def wait(self, stream: FakeStream, mark: Operation) -> None:
        """Order what the stream is given from now on after the mark."""
        stream.clock = merged(stream.clock, mark.clock)
        stream.awaited.append(mark)

    def finish(self, operation: Operation) -> bool:
        """Do all that must be over for the operation to be, and it; whether that was possible."""
        if self._order not in (LATE, EAGER):
            self._wander()
        while not operation.is_done:
            if not self._step(operation):
                return False
        return True

    def advance(self, operation: Operation) -> bool:
        """Do one thing that the operation needs; whether it is over."""
        return operation.is_done or (self._step(operation) and operation.is_done)

    def know(self, operation: Operation) -> None:
        """The host has waited for the operation."""
        self.known = merged(self.known, operation.clock)

    def is_known(self, operation: Operation) -> bool:
        """Whether the host knows that the operation is over."""
        handle = operation.stream.handle
        return self.known.get(handle, 0) >= operation.clock[handle]

    def drain(self, streams: Iterable[FakeStream] | None = None) -> bool:
        """Do all that the streams were given; whether that was possible."""
        for stream in list(self._streams if streams is None else streams):
            if stream.queue:
                last = stream.queue[-1]
                if not self.finish(last):
                    return False
                self.know(last)
        return True

    def let_go(self) -> None:
        """Let what was held go on."""
        for stream in self._streams:
            for operation in stream.queue:
                operation.is_held = False

    def drop(self) -> None:
        """Do nothing of what was not done: an error has ended it."""
        for stream in self._streams:
            for operation in stream.queue:
                operation.is_done = True
            stream.queue.clear()

    def _step(self, operation: Operation) -> bool:
        """Do the first thing that the operation waits for and that waits for nothing."""
        head = operation.stream.queue[0]
        while True:
            blocking = [other for other in head.after if not other.is_done]
            if not blocking:
                break
            head = self._random.choice(blocking).stream.queue[0]
        if head.is_held:
            return False
        self._execute(head)
        return True

    def _execute(self, operation: Operation) -> None:
        stream = operation.stream
        begins = max(
            [stream.last.ends_at if stream.last else 0.0, *(each.ends_at for each in operation.after)]
        )
        operation.ends_at = begins + operation.task.milliseconds
        stream.last = operation
        stream.queue.popleft()
        operation.is_done = True
        if operation.task.work is not None:
            operation.task.work()

    def _wander(self) -> None:
        """Do a few things that are possible and that nobody waits for."""
        for _ in range(self._random.randrange(4)):
            heads = [stream.queue[0] for stream in self._streams if stream.queue]
            possible = [
                head for head in heads if not head.is_held and all(other.is_done for other in head.after)
            ]
            if not possible:
                return
            self._execute(self._random.choice(possible))
