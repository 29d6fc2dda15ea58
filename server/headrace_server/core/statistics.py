"""Counts and durations of a model, in the shape of the protocol's ModelStatistics. Added to once a batch.

Whatever arrives for a model ends once: as a success, a failure, or cancelled. So the figures add up:
`failures` holds `fail.count` by reason, with `cancel.count` beside it under CANCELED; the nanoseconds of
`success` are those of `queue` and the three `compute_*` together; the time histograms hold one value for
each success.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from headrace_server.errors import DeadlineMissed, DeviceLost, EngineFailed, InferenceError, Overloaded

SECONDS_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_NS_BOUNDS: Final = tuple(round(bound * 1e9) for bound in SECONDS_BOUNDS)
ROWS_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class FailReason(enum.Enum):
    """Why a request got no rows; the values are the protocol's words."""

    REJECTED = "REJECTED"
    """The queue was full, or the deadline passed in it."""
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    """The engine failed."""
    OTHER = "OTHER"
    """The request was wrong, the model was closed, or the answer could not be written."""

    @classmethod
    def of(cls, error: InferenceError) -> FailReason:
        """Return the reason that an answer stands for."""
        if isinstance(error, Overloaded | DeadlineMissed):
            return cls.REJECTED
        return cls.BACKEND if isinstance(error, EngineFailed | DeviceLost) else cls.OTHER


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds that it took together."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """Count something that happened `count` times and took `ns` in all."""
        self.count += count
        self.ns += ns

    def copy(self) -> Duration:
        """Return one that stays as this is now."""
        return Duration(self.count, self.ns)


class Histogram(NamedTuple):
    """How many values lie at or below each of `bounds` and above the one before; `counts` has one place
    more, for those above all of them. `sum` is of the values themselves."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(slots=True)
class BatchSizeStatistics:
    """The executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def copy(self) -> BatchSizeStatistics:
        """Return figures that stay as these are now."""
        return BatchSizeStatistics(
            self.compute_input.copy(), self.compute_infer.copy(), self.compute_output.copy()
        )


@dataclass(slots=True)
class ResponseStatistics:
    """The responses at one place (first, second, …) of requests that may have several."""

    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    empty_response: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)

    def copy(self) -> ResponseStatistics:
        """Return figures that stay as these are now."""
        return ResponseStatistics(
            self.compute_infer.copy(),
            self.compute_output.copy(),
            self.success.copy(),
            self.fail.copy(),
            self.empty_response.copy(),
            self.cancel.copy(),
        )


class Execution(NamedTuple):
    """When one batch was where: moments of the monotonic clock, in nanoseconds.

    Requests that were executed together and end at different times are told in several executions; all
    but the last say that it `goes_on`, and count their requests and not the batch.
    """

    rows: int
    """Of the whole batch."""
    begun_ns: int
    """Its requests had left the queue."""
    started_ns: int
    """Its inputs were in place, and computing began."""
    computed_ns: int
    ended_ns: int
    """Its answers were encoded."""
    goes_on: bool = False

    @property
    def input_ns(self) -> int:
        """What filling the inputs took."""
        return self.started_ns - self.begun_ns

    @property
    def infer_ns(self) -> int:
        """What computing took."""
        return self.computed_ns - self.started_ns

    @property
    def output_ns(self) -> int:
        """What handing out the rows took."""
        return self.ended_ns - self.computed_ns


def _no_times() -> list[int]:
    return [0] * (len(_NS_BOUNDS) + 1)


def _no_failures() -> dict[FailReason, int]:
    return dict.fromkeys(FailReason, 0)


@dataclass(slots=True)
class Statistics:
    """Since the model was loaded. The owner serialises changes and reading: see `Model.snapshot`."""

    last_inference_ms: int = 0
    """Wall clock, milliseconds since the epoch; 0 before the first."""
    inference_count: int = 0
    """Rows."""
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    by_batch_size: dict[int, BatchSizeStatistics] = field(default_factory=dict)
    failures: dict[FailReason, int] = field(default_factory=_no_failures)
    responses: dict[str, ResponseStatistics] = field(default_factory=dict)
    """By the response's number, of a model that may give several to a request."""
    queue_times: list[int] = field(default_factory=_no_times)
    """Successes by the time that they waited, in the buckets of `queue_seconds`; the next two likewise."""
    compute_times: list[int] = field(default_factory=_no_times)
    request_times: list[int] = field(default_factory=_no_times)

    @property
    def queue_seconds(self) -> Histogram:
        """How long each request waited that was answered with rows."""
        return _of_seconds(self.queue_times, self.queue.ns)

    @property
    def compute_seconds(self) -> Histogram:
        """How long filling the inputs, computing and handing out took, for each of these requests."""
        ns = self.compute_input.ns + self.compute_infer.ns + self.compute_output.ns
        return _of_seconds(self.compute_times, ns)

    @property
    def request_seconds(self) -> Histogram:
        """How long each of these requests took from acceptance to its answer."""
        return _of_seconds(self.request_times, self.success.ns)

    @property
    def batch_size(self) -> Histogram:
        """The rows of each execution."""
        counts = [0] * (len(ROWS_BOUNDS) + 1)
        for rows, executions in self.by_batch_size.items():
            counts[bisect_left(ROWS_BOUNDS, rows)] += executions.compute_infer.count
        return Histogram(ROWS_BOUNDS, tuple(counts), self.inference_count)

    def executed(self, execution: Execution, queued_ns: Sequence[int], now_ms: int) -> None:
        """Add a batch: `queued_ns` says when each request that it answered with rows was accepted.

        Compute time counts once for each request that shared it.
        """
        n = len(queued_ns)
        rows, begun_ns, started_ns, computed_ns, ended_ns, goes_on = execution
        input_ns, infer_ns, output_ns = (
            started_ns - begun_ns,
            computed_ns - started_ns,
            ended_ns - computed_ns,
        )
        accepted_ns = sum(queued_ns)
        self.last_inference_ms = now_ms
        self.success.add(n, n * ended_ns - accepted_ns)
        self.queue.add(n, n * begun_ns - accepted_ns)
        self.compute_input.add(n, n * input_ns)
        self.compute_infer.add(n, n * infer_ns)
        self.compute_output.add(n, n * output_ns)
        queue_times, request_times = self.queue_times, self.request_times
        for one_ns in queued_ns:
            queue_times[bisect_left(_NS_BOUNDS, begun_ns - one_ns)] += 1
            request_times[bisect_left(_NS_BOUNDS, ended_ns - one_ns)] += 1
        self.compute_times[bisect_left(_NS_BOUNDS, ended_ns - begun_ns)] += n
        if goes_on:
            return
        self.inference_count += rows
        self.execution_count += 1
        size = self.by_batch_size.get(rows)
        if size is None:
            size = self.by_batch_size[rows] = BatchSizeStatistics()
        size.compute_input.add(1, input_ns)
        size.compute_infer.add(1, infer_ns)
        size.compute_output.add(1, output_ns)

    def failed(self, reason: FailReason, ns: int) -> None:
        """Count a request that ended without rows, `ns` after it had been accepted."""
        (self.cancel if reason is FailReason.CANCELED else self.fail).add(1, ns)
        self.failures[reason] += 1

    def copy(self) -> Statistics:
        """Return figures that stay as these are now."""
        return Statistics(
            last_inference_ms=self.last_inference_ms,
            inference_count=self.inference_count,
            execution_count=self.execution_count,
            success=self.success.copy(),
            fail=self.fail.copy(),
            cancel=self.cancel.copy(),
            queue=self.queue.copy(),
            compute_input=self.compute_input.copy(),
            compute_infer=self.compute_infer.copy(),
            compute_output=self.compute_output.copy(),
            by_batch_size={rows: one.copy() for rows, one in self.by_batch_size.items()},
            failures=self.failures.copy(),
            responses={number: one.copy() for number, one in self.responses.items()},
            queue_times=self.queue_times.copy(),
            compute_times=self.compute_times.copy(),
            request_times=self.request_times.copy(),
        )


def _of_seconds(counts: Sequence[int], ns: int) -> Histogram:
    return Histogram(SECONDS_BOUNDS, tuple(counts), ns * 1e-9)
