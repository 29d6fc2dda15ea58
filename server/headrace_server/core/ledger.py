"""What has become of a model's requests: written by engines' threads and transports, read by anybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from headrace_server.core.delivery import Answers
from headrace_server.core.latency import BatchLatency
from headrace_server.core.request import Work
from headrace_server.core.statistics import Execution, FailReason, Statistics
from headrace_server.errors import InferenceError, Overloaded


class Ledger:
    """The statistics of one model and the latency of its batches, behind a lock of their own."""

    def __init__(self, max_rows: int) -> None:
        self.statistics = Statistics()
        self._latency = BatchLatency(max_rows)
        self._lock = threading.Lock()

    def executed(self, answers: Answers, execution: Execution) -> None:
        """Count an execution; an answer that is an error could not be encoded, or found no room."""
        queued_ns = [work.queued_ns for work, answer in answers if isinstance(answer, bytes)]
        with self._lock:
            self._latency.record((execution.ended_ns - execution.begun_ns) * 1e-9)
            self.statistics.executed(execution, queued_ns, time.time_ns() // 1_000_000)
            if len(queued_ns) < len(answers):
                for work, answer in answers:
                    if not isinstance(answer, bytes):
                        is_refused = isinstance(answer, Overloaded)
                        reason = FailReason.REJECTED if is_refused else FailReason.OTHER
                        self.statistics.failed(reason, execution.ended_ns - work.queued_ns)

    def failed(self, reason: FailReason, works: Sequence[Work]) -> None:
        """Count accepted requests that ended without rows."""
        now_ns = time.monotonic_ns()
        with self._lock:
            for work in works:
                self.statistics.failed(reason, now_ns - work.queued_ns)

    def refused(self, error: InferenceError) -> None:
        """Count a request that was not accepted."""
        with self._lock:
            self.statistics.failed(FailReason.of(error), 0)

    def change(self, add: Callable[[Statistics], None]) -> None:
        """Let `add` change the statistics."""
        with self._lock:
            add(self.statistics)

    def snapshot(self) -> Statistics:
        """Return the figures of this moment, which add up."""
        with self._lock:
            return self.statistics.copy()

    def drain_seconds(self, rows: int) -> float:
        """Estimate the time until `rows` waiting rows have been executed."""
        return self._latency.drain_seconds(rows)
