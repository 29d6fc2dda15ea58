"""A loaded model as requests meet it: admission, the queue, the answers, and the statistics.

Transports submit and cancel from their threads, each instance's worker takes batches from its own. Whoever
moves a piece of work out of the queue answers it, so each gets exactly one final answer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from headrace_engines.spec import ModelSpec
from headrace_server.core.admission import Admission
from headrace_server.core.delivery import Answers, deliver
from headrace_server.core.dispatch import Dispatch
from headrace_server.core.executing import Instances
from headrace_server.core.ledger import Ledger
from headrace_server.core.ordering import Ordering
from headrace_server.core.queue import QueueFull, Taken
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
        self.places: tuple[tuple[int | None, int], ...] = ((None, settings.instances),)
        """How many instances run on each GPU, by its index; None is the CPU. Whoever loaded it tells."""
        self.tracer: Tracer | None = None
        """Hears of every batch while requests are traced."""
        max_rows = spec.max_batch_size or 1
        self._ledger = Ledger(max_rows)
        self._queue = queue_for(name, spec, settings, limits.max_queue_size, limits.max_queue_bytes)
        self._dispatch = Dispatch(self._queue, max_rows, has_sequences=settings.sequences is not None)
        self._execute: Callable[[list[Work]], None] | None = None
        """Executes what the only instance is lent for."""
        self._ordering = Ordering() if settings.preserve_ordering else None
        self._deliver = deliver if self._ordering is None else self._ordering.deliver
        self.instances = Instances()
        self._lost_gpu: int | None = None
        self._on_lost = on_lost

    @property
    def lost(self) -> str | None:
        """Why the model will not answer again, or None."""
        return self._dispatch.lost

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
        dispatch = self._dispatch
        with dispatch.lock:
            if dispatch.is_closing:
                raise ShuttingDown(f"model {self.facts.name!r} is being closed")
            try:
                if dispatch.lost is not None:
                    raise DeviceLost(f"model {self.facts.name!r}: {dispatch.lost}")
                self._queue.push(work)
            except (QueueFull, InferenceError) as reason:
                raise self._refusal(reason) from None
            if self._ordering is not None:
                self._ordering.expect(work)
            if not hold:
                dispatch.wake()

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
        self._dispatch.most_lent_rows = most_rows

    def release(self) -> None:
        """Let the engine have what was submitted to be held, or execute it here if that is quick."""
        taken = self._dispatch.release()
        if taken is None:
            return
        try:
            self._tell_missed(taken)
            if taken.batch and self._execute is not None:
                self._execute(taken.batch)
        finally:
            self._dispatch.take_back()

    def cancel(self, work: Work) -> None:
        """End the work unheard if it still waits, else mark it as abandoned: its caller has gone."""
        is_late = work.is_late(time.monotonic())
        with self._dispatch.lock:
            work.abandoned = True
            work.left_late = is_late
            if work.window is not None:
                work.window.open()
            if work.state is not QUEUED:
                return
            orphans = self._dispatch.discard(work)
        self._forget([work])
        self._refuse(orphans)

    def expire(self, work: Work) -> None:
        """Answer the work with DeadlineMissed if it still waits."""
        with self._dispatch.lock:
            if work.state is not QUEUED:
                return
            orphans = self._dispatch.discard(work)
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
            taken = self._dispatch.next(instance, wait=wait)
            if taken is None:
                return None
            self._tell_missed(taken)
            if taken.batch or not wait:
                return taken.batch

    def await_batch(self, until: float) -> None:
        """Return when a full batch waits, the model closes or is lost, or the moment has come, in seconds."""
        self._dispatch.await_batch(until)

    def exhausted(self, rows: int) -> bool:
        """Hear that memory did not suffice for a batch of so many rows, which is executed in parts.

        The next ones are smaller for a while; returns whether that is news.
        """
        self._ledger.change(Statistics.exhausted)
        return self._dispatch.exhausted(rows)

    def _tell_missed(self, taken: Taken) -> None:
        if taken.missed:
            self.fail(taken.missed, self._missed())
            self._refuse(taken.orphans)

    def _refuse(self, orphans: Sequence[Work]) -> None:
        """Answer work whose sequence will not begin; the lock is not held."""
        if orphans:
            self.fail(
                orphans, InvalidInput("the sequence's first request was given up before it was executed")
            )

    def finished(self, works: Sequence[Work]) -> None:
        """Let the sequences of these go on, or end: an instance has executed them, with whatever outcome."""
        self._dispatch.finished(works)

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
        if self._lost_gpu is None:
            self._lost_gpu = gpu
        is_first, waiting = self._dispatch.lose(reason)
        self.fail([*taken, *waiting], DeviceLost(f"model {self.facts.name!r}: {reason}"))
        if is_first:
            self._on_lost()

    def close(self, *, drain: bool) -> None:
        """Accept nothing more. With `drain` what waits is still executed, else answered ShuttingDown."""
        works = self._dispatch.close(drain=drain)
        self.fail(
            works, ShuttingDown(f"model {self.facts.name!r} was closed before the request was executed")
        )
