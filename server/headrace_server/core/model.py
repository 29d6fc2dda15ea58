"""A loaded model as requests meet it: admission, the queue behind a lock, and the statistics.

Transports submit and cancel from their threads, each instance's worker takes batches from its own. Whoever
moves a piece of work out of the queue answers it, so each gets exactly one final answer.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from headrace_engines.spec import ModelSpec
from headrace_server.core.admission import Admission
from headrace_server.core.delivery import Answers, deliver
from headrace_server.core.executing import Instances
from headrace_server.core.ledger import Ledger
from headrace_server.core.ordering import Ordering
from headrace_server.core.queue import NEVER, QueueFull, Taken
from headrace_server.core.queues import queue_for
from headrace_server.core.request import ENDED, QUEUED, ModelFacts, Work
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings
from headrace_server.core.statistics import Execution, FailReason, Statistics
from headrace_server.core.tracing import Tracer
from headrace_server.errors import (
    DeadlineMissed,
    DeviceLost,
    InferenceError,
    InvalidInput,
    Overloaded,
    ShuttingDown,
)

_serials = itertools.count(1)
_NOTHING: Final[Mapping[int, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait for one model."""

    max_queue_size: int = 4096
    max_queue_bytes: int = 1 << 30


class Model:
    """One version of a model that is being served."""

    def __init__(
        self,
        name: str,
        version: str,
        spec: ModelSpec,
        platform: str,
        limits: Limits,
        on_lost: Callable[[], None] = lambda: None,
        *,
        settings: ModelSettings = DEFAULT_SETTINGS,
        config: bytes = b"",
        memory_bytes: int = 0,
        gpu_memory_bytes: Mapping[int, int] = _NOTHING,
        takes_device_rows: bool = False,
    ) -> None:
        """`memory_bytes` is what the model's files and staging buffers take; `on_lost` is called once.

        `gpu_memory_bytes` is the same of each GPU, by its index.

        `takes_device_rows` says whether all its engines do, each on a GPU.
        """
        answer_row_bytes = sum(tensor.row_bytes for tensor in spec.outputs if tensor.is_fixed)
        serial = next(_serials)
        self.facts = ModelFacts(
            name, version, spec, platform, serial, answer_row_bytes, settings, config, takes_device_rows
        )
        self.admission = Admission(name, spec, settings)
        self.memory_bytes = memory_bytes
        self.gpu_memory_bytes = gpu_memory_bytes
        self.load_seconds = 0.0
        """What loading and warming up took, as told by whoever did it."""
        self.tracer: Tracer | None = None
        """Hears of every batch while requests are traced."""
        self._max_rows = spec.max_batch_size or 1
        self._ledger = Ledger(self._max_rows)
        self._queue = queue_for(name, spec, settings, limits.max_queue_size, limits.max_queue_bytes)
        self._ordering = Ordering() if settings.preserve_ordering else None
        self._deliver = deliver if self._ordering is None else self._ordering.deliver
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Work of a sequence is for one instance alone, so that each has to look.
        self._has_sequences = settings.sequences is not None
        self._notify = self._changed.notify_all if self._has_sequences else self._changed.notify
        self.instances = Instances()
        self._idle = 0
        """Instances that wait for work."""
        self._full = threading.Condition(self._lock)
        self._awaiting = 0
        """Those of the idle ones that wait for a full batch."""
        self._released = False
        self._execute: Callable[[list[Work]], None] | None = None
        self._most_lent_rows = 0
        self._is_lent = False
        """Whether somebody uses the only instance while its thread waits."""
        self._closing = False
        self._lost: str | None = None
        self._lost_gpu: int | None = None
        self._on_lost = on_lost

    @property
    def lost(self) -> str | None:
        """Why the model will not answer again, or None."""
        return self._lost

    @property
    def lost_gpu(self) -> int | None:
        """The index of the GPU that is gone, where the model was lost with one."""
        return self._lost_gpu

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.requests

    @property
    def waiting_rows(self) -> int:
        """Rows of these."""
        return self._queue.rows

    @property
    def statistics(self) -> Statistics:
        """The figures as they are being written; `snapshot` returns those of one moment."""
        return self._ledger.statistics

    def snapshot(self) -> Statistics:
        """Return the figures of this moment, which add up."""
        return self._ledger.snapshot()

    def count(self, add: Callable[[Statistics], None]) -> None:
        """Let `add` change the statistics by what the model does not see: a program's single responses."""
        self._ledger.change(add)

    def refused(self, error: InferenceError) -> None:
        """Count a request that came for this model, and was told the error before it was submitted."""
        self._ledger.refused(error)

    def submit(self, work: Work, *, hold: bool = False) -> None:
        """Accept the work, or raise Overloaded, ShuttingDown, DeviceLost, or what the queue knows of it.

        With `hold` no engine is woken for it until `release`: the caller knows that more is coming. What
        a closed model refuses is not counted: another version may answer it.
        """
        with self._lock:
            if self._closing:
                raise ShuttingDown(f"model {self.facts.name!r} is being closed")
            try:
                if self._lost is not None:
                    raise DeviceLost(f"model {self.facts.name!r}: {self._lost}")
                self._queue.push(work)
            except (QueueFull, InferenceError) as reason:
                raise self._refusal(reason) from None
            if self._ordering is not None:
                self._ordering.expect(work)
            if not hold:
                self._release()

    def _refusal(self, reason: QueueFull | InferenceError) -> InferenceError:
        """Count a request that is not accepted, and return what its caller is told."""
        error = reason
        if isinstance(error, QueueFull):
            retry_after = self._ledger.drain_seconds(error.rows)
            error = Overloaded(f"model {self.facts.name!r}: queue full: {error}", retry_after)
        self._ledger.refused(error)
        return error

    def lend(self, execute: Callable[[list[Work]], None], most_rows: int) -> None:
        """Have `release` execute what waits: at most so many rows, while the only instance is idle."""
        self._execute = execute
        self._most_lent_rows = most_rows

    def release(self) -> None:
        """Let the engine have what was submitted to be held, or execute it here if that is quick."""
        with self._lock:
            execute = self._execute
            is_quick = 0 < self._queue.rows <= self._most_lent_rows
            if execute is None or not is_quick or self._is_lent or not self._idle:
                self._release()
                return
            self._released = True
            taken = self._next(wait=False, instance=0)
            if taken is None or not (taken.batch or taken.missed):  # more should be waited for
                self._release()
                return
            self._is_lent = True
        try:
            self._tell_missed(taken)
            if taken.batch:
                execute(taken.batch)
        finally:
            with self._lock:
                self._is_lent = False
                if self._released or self._closing:
                    self._notify()

    def _release(self) -> None:
        self._released = True
        if self._idle and not self._is_lent:
            self._notify()

    def cancel(self, work: Work) -> None:
        """End the work unheard if it still waits, else mark it as abandoned: its caller has gone."""
        is_late = work.is_late(time.monotonic())
        with self._lock:
            work.abandoned = True
            work.left_late = is_late
            if work.window is not None:
                work.window.open()
            if work.state is not QUEUED:
                return
            orphans = self._discard(work)
        self._forget([work])
        self._refuse(orphans)

    def expire(self, work: Work) -> None:
        """Answer the work with DeadlineMissed if it still waits."""
        with self._lock:
            if work.state is not QUEUED:
                return
            orphans = self._discard(work)
        self._refuse(orphans)
        self.fail([work], self._missed())

    def _missed(self) -> DeadlineMissed:
        return DeadlineMissed(f"model {self.facts.name!r}: the deadline passed while the request waited")

    def take(self, *, wait: bool, instance: int = 0) -> list[Work] | None:
        """Return the next batch for an engine that is free; `instance` says which of the model's.

        Without `wait`, an empty batch says that nothing is there to execute. None says that the model
        is lost, or is closing and everything that it had accepted has been taken.
        """
        while True:
            with self._lock:
                taken = self._next(wait, instance)
            if taken is None:
                return None
            self._tell_missed(taken)
            if taken.batch or not wait:
                return taken.batch

    def await_batch(self, until: float) -> None:
        """Return when a full batch waits, the model closes or is lost, or the moment has come, in seconds.

        A request that comes wakes nobody here, unless it is the one that makes the batch full.
        """
        with self._lock:
            self._notify = self._notify_awaiting
            self._idle += 1
            self._awaiting += 1
            try:
                while not (
                    self._lost or self._closing or (self._released and self._queue.rows >= self._max_rows)
                ):
                    seconds = until - time.monotonic()
                    if seconds <= 0 or not self._full.wait(seconds):
                        return
            finally:
                self._idle -= 1
                self._awaiting -= 1

    def _notify_awaiting(self) -> None:
        """Wake an instance that has nothing to do, else one that waits for a full batch if that is there."""
        if self._idle > self._awaiting:
            self._changed.notify()
        elif self._queue.rows >= self._max_rows:
            self._full.notify()

    def _tell_missed(self, taken: Taken) -> None:
        if taken.missed:
            self.fail(taken.missed, self._missed())
            self._refuse(taken.orphans)

    def _next(self, wait: bool, instance: int) -> Taken | None:
        """Return what the queue gives as soon as it gives something; the lock is held."""
        while self._lost is None:
            again_at = NEVER
            if self._released and not (wait and self._is_lent):
                taken = self._queue.take(
                    self._max_rows, time.monotonic(), instance=instance, hurry=self._closing
                )
                self._released = self._queue.requests > 0
                if taken.batch or taken.missed:
                    if self._idle:
                        self._wake_others()
                    return taken
                again_at = taken.again_at
            if self._closing and not self._released and not self._is_lent:
                return None
            if not wait:
                return Taken([], [])
            self._idle += 1
            try:
                self._changed.wait(None if again_at == NEVER else again_at - time.monotonic())
            finally:
                self._idle -= 1
        return None

    def _wake_others(self) -> None:
        """Let other instances have what is left, or end with the model that is closing."""
        if self._released:
            self._notify()
        elif self._closing:
            self._changed.notify_all()

    def _discard(self, work: Work) -> Sequence[Work]:
        orphans = self._queue.discard(work)
        if self._closing and not self._queue.requests:
            self._changed.notify_all()
        return orphans

    def _refuse(self, orphans: Sequence[Work]) -> None:
        """Answer work whose sequence will not begin; the lock is not held."""
        if orphans:
            self.fail(
                orphans, InvalidInput("the sequence's first request was given up before it was executed")
            )

    def finished(self, works: Sequence[Work]) -> None:
        """Let the sequences of these go on, or end: an instance has executed them, with whatever outcome."""
        with self._lock:
            self._queue.finished(works, time.monotonic())
            if self._idle and self._has_sequences:
                self._notify()  # one that begins anew may have found a slot of an instance that waits

    def executed(self, answers: Answers, execution: Execution) -> None:
        """Count an execution and hand its answers to their callers. An answer that is an error could not
        be encoded; an engine's failure goes through `fail`."""
        self._ledger.executed(answers, execution)
        tracer = self.tracer  # it may be taken away meanwhile
        if tracer is not None:
            tracer.executed([work for work, _ in answers], execution)
        self._deliver(answers)

    def fail(self, works: Sequence[Work], error: InferenceError) -> None:
        """Answer all of these with one error; they have left the queue."""
        if works:
            self._ledger.failed(FailReason.of(error), works)
            self._deliver([(work, error) for work in works])

    def drop(self, works: Sequence[Work]) -> None:
        """End work that was taken, whose caller has gone, without an answer."""
        for work in works:
            work.state = ENDED
            work.data = ()
        self._forget(works)

    def _forget(self, works: Sequence[Work]) -> None:
        """Count what nobody hears of: gRPC may end a call at its deadline before anybody here has looked."""
        self._ledger.failed(FailReason.REJECTED, [work for work in works if work.left_late])
        self._ledger.failed(FailReason.CANCELED, [work for work in works if not work.left_late])
        if self._ordering is not None:
            self._ordering.leave(works)

    def lose_gpu(self, gpu: int, reason: str) -> None:
        """Stop for good if an instance is on this GPU, which is gone: see `lose`. Waits for no instance."""
        if instances := self.instances.on(gpu):
            self.lose(reason, [work for one in instances for work in one.give_up()], gpu)

    def lose(self, reason: str, taken: Sequence[Work], gpu: int | None = None) -> None:
        """Stop for good because an instance's device is gone: what waits, or that instance had `taken`, is
        answered with DeviceLost. What the other instances have in hand is still answered by them.

        `gpu` is the index of the device, where it is a GPU."""
        with self._lock:
            is_first = self._lost is None
            self._lost = self._lost or reason
            if self._lost_gpu is None:
                self._lost_gpu = gpu
            works = [*taken, *self._queue.clear()]
            self._changed.notify_all()
            self._full.notify_all()
        self.fail(works, DeviceLost(f"model {self.facts.name!r}: {reason}"))
        if is_first:
            self._on_lost()

    def close(self, *, drain: bool) -> None:
        """Accept nothing more. With `drain` what waits is still executed, else answered ShuttingDown."""
        with self._lock:
            self._closing = True
            works = [] if drain else self._queue.clear()
            self._released = self._queue.requests > 0
            self._changed.notify_all()
            self._full.notify_all()
        self.fail(
            works, ShuttingDown(f"model {self.facts.name!r} was closed before the request was executed")
        )
