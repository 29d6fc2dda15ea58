"""A loaded model as requests meet it: admission, the queue, and the statistics, behind one lock.

Transports submit and cancel from their threads, a worker takes batches from its own. Whoever moves a
piece of work out of the queue answers it, so each gets exactly one final answer.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from headrace_engines.spec import ModelSpec
from headrace_server.core.admission import Admission
from headrace_server.core.latency import BatchLatency
from headrace_server.core.queue import QueueFull, RequestQueue
from headrace_server.core.request import ModelFacts, State, Work
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings
from headrace_server.core.statistics import Execution, Statistics
from headrace_server.errors import DeadlineMissed, DeviceLost, InferenceError, Overloaded, ShuttingDown

_logger = logging.getLogger(__name__)
_serials = itertools.count(1)

Answers = Sequence[tuple[Work, bytes | InferenceError]]


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
    ) -> None:
        answer_row_bytes = sum(tensor.row_bytes for tensor in spec.outputs if tensor.is_fixed)
        serial = next(_serials)
        self.facts = ModelFacts(name, version, spec, platform, serial, answer_row_bytes, settings, config)
        self.admission = Admission(name, spec)
        self.statistics = Statistics()
        self._max_rows = spec.max_batch_size or 1
        self._queue = RequestQueue(limits.max_queue_size, limits.max_queue_bytes)
        self._latency = BatchLatency(self._max_rows)
        self._changed = threading.Condition(threading.Lock())
        self._released = False
        self._closing = False
        self._lost: str | None = None
        self._on_lost = on_lost

    @property
    def lost(self) -> str | None:
        """Why the model will not answer again, or None."""
        return self._lost

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.requests

    def submit(self, work: Work, *, hold: bool = False) -> None:
        """Accept the work, or raise Overloaded, ShuttingDown or DeviceLost.

        With `hold` no engine is woken for it until `release`: the caller knows that more is coming.
        """
        with self._changed:
            if self._lost is not None:
                raise DeviceLost(f"model {self.facts.name!r}: {self._lost}")
            if self._closing:
                raise ShuttingDown(f"model {self.facts.name!r} is being closed")
            try:
                self._queue.push(work)
            except QueueFull as full:
                self.statistics.fail.add(1, 0)
                retry_after = self._latency.drain_seconds(self._queue.rows)
                raise Overloaded(f"model {self.facts.name!r}: queue full: {full}", retry_after) from None
            if not hold:
                self._released = True
                self._changed.notify()

    def release(self) -> None:
        """Let the engine have what was submitted to be held."""
        with self._changed:
            self._released = True
            self._changed.notify()

    def cancel(self, work: Work) -> None:
        """End the work unheard if it still waits, else mark it as abandoned: its caller has gone."""
        with self._changed:
            work.abandoned = True
            if work.window is not None:
                work.window.open()
            if work.state is State.QUEUED:
                self._queue.discard(work)
                self.statistics.cancel.add(1, time.monotonic_ns() - work.queued_ns)

    def expire(self, work: Work) -> None:
        """Answer the work with DeadlineMissed if it still waits."""
        with self._changed:
            if work.state is not State.QUEUED:
                return
            self._queue.discard(work)
        self.fail([work], DeadlineMissed("the deadline passed while the request waited"))

    def take(self, *, wait: bool) -> list[Work] | None:
        """Return the next batch for an engine that is free.

        Without `wait`, an empty batch says that nothing is there to execute. None says that the model
        is closing and everything that it had accepted has been taken.
        """
        while True:
            with self._changed:
                while not self._released:
                    if self._closing:
                        return None
                    if not wait:
                        return []
                    self._changed.wait()
                batch, late = self._queue.take(self._max_rows, time.monotonic())
                self._released = self._queue.requests > 0
            if late:
                self.fail(late, DeadlineMissed("the deadline passed while the request waited"))
            if batch or not wait:
                return batch

    def executed(self, answers: Answers, execution: Execution) -> None:
        """Count a batch and hand its answers to their callers."""
        with self._changed:
            self._latency.record((execution.input_ns + execution.infer_ns + execution.output_ns) * 1e-9)
            self.statistics.executed(execution, time.time_ns() // 1_000_000)
        deliver(answers)

    def fail(self, works: Iterable[Work], error: InferenceError) -> None:
        """Answer all of these with one error; they have left the queue."""
        now_ns = time.monotonic_ns()
        failed = list(works)
        with self._changed:
            for work in failed:
                self.statistics.fail.add(1, now_ns - work.queued_ns)
        deliver([(work, error) for work in failed])

    def lose(self, reason: str, taken: Sequence[Work]) -> None:
        """Stop for good because the device is gone: what waits or was `taken` is answered with DeviceLost."""
        with self._changed:
            self._lost = reason
            works = [*taken, *self._queue.clear()]
        self.fail(works, DeviceLost(f"model {self.facts.name!r}: {reason}"))
        self._on_lost()

    def close(self, *, drain: bool) -> None:
        """Accept nothing more. With `drain` what waits is still executed, else answered ShuttingDown."""
        with self._changed:
            self._closing = True
            works = [] if drain else self._queue.clear()
            self._released = self._queue.requests > 0
            self._changed.notify_all()
        self.fail(
            works, ShuttingDown(f"model {self.facts.name!r} was closed before the request was executed")
        )


def deliver(answers: Answers) -> None:
    """Hand each sink its answers, in one call. A sink that fails costs the others nothing."""
    by_sink: dict[int, list[tuple[Work, bytes | InferenceError]]] = {}
    for answer in answers:
        answer[0].state = State.ENDED
        answer[0].data = ()
        by_sink.setdefault(id(answer[0].sink), []).append(answer)
    for mine in by_sink.values():
        try:
            mine[0][0].sink.deliver(mine)
        except Exception:
            _logger.exception("a transport did not take %d answers", len(mine))
