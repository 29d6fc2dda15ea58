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
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from headrace_server.errors import DeadlineMissed, DeviceLost, EngineFailed, InferenceError, Overloaded

SECONDS_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_NS_BOUNDS: Final = (*(round(bound * 1e9) for bound in SECONDS_BOUNDS), 1 << 63)
"""With one for what is above all others."""
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


class Histogram(NamedTuple):
    """How many values lie at or below each of `bounds` and above the one before; `counts` has one place
    more, for those above all of them. `sum` is of the values themselves."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(slots=True)
class ResponseStatistics:
    """The responses at one place (first, second, …) of requests that may have several."""

    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    empty_response: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)


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


@dataclass(slots=True)
class Compute:
    """How often something was executed, and what the three parts of executing took together."""

    count: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    @property
    def compute_input(self) -> Duration:
        """Filling the inputs."""
        return Duration(self.count, self.input_ns)

    @property
    def compute_infer(self) -> Duration:
        """Computing."""
        return Duration(self.count, self.infer_ns)

    @property
    def compute_output(self) -> Duration:
        """Handing out the rows."""
        return Duration(self.count, self.output_ns)

    @property
    def ns(self) -> int:
        """All three."""
        return self.input_ns + self.infer_ns + self.output_ns

    def add(self, count: int, execution: Execution) -> None:
        """Count an execution `count` times."""
        _, begun_ns, started_ns, computed_ns, ended_ns, _ = execution
        self.count += count
        self.input_ns += count * (started_ns - begun_ns)
        self.infer_ns += count * (computed_ns - started_ns)
        self.output_ns += count * (ended_ns - computed_ns)


def _no_times() -> list[int]:
    return [0] * len(_NS_BOUNDS)


def _no_failures() -> dict[FailReason, int]:
    return dict.fromkeys(FailReason, 0)


@dataclass(slots=True)
class Statistics:
    """Since the model was loaded. The owner serialises changes and reading: see `Model.snapshot`."""

    last_inference_ms: int = 0
    """Wall clock, milliseconds since the epoch; 0 before the first."""
    queue_ns: int = 0
    """What the requests that were answered with rows had waited."""
    compute: Compute = field(default_factory=Compute)
    """Each of these requests counts as an execution of its own."""
    by_batch_size: dict[int, Compute] = field(default_factory=dict)
    """Executions by their rows."""
    failures: dict[FailReason, int] = field(default_factory=_no_failures)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    responses: dict[str, ResponseStatistics] = field(default_factory=dict)
    """By the response's number, of a model that may give several to a request."""
    queue_times: list[int] = field(default_factory=_no_times)
    """Successes by the time that they waited, in the buckets of `queue_seconds`; the next two likewise."""
    compute_times: list[int] = field(default_factory=_no_times)
    request_times: list[int] = field(default_factory=_no_times)

    @property
    def inference_count(self) -> int:
        """Rows."""
        return sum(rows * executions.count for rows, executions in self.by_batch_size.items())

    @property
    def execution_count(self) -> int:
        """Batches."""
        return sum(executions.count for executions in self.by_batch_size.values())

    @property
    def success(self) -> Duration:
        """Requests that were answered with rows, from their acceptance to their answers."""
        return Duration(self.compute.count, self.queue_ns + self.compute.ns)

    @property
    def queue(self) -> Duration:
        """What these had waited."""
        return Duration(self.compute.count, self.queue_ns)

    @property
    def compute_input(self) -> Duration:
        """What filling the inputs took, for each of these requests; the next two likewise."""
        return self.compute.compute_input

    @property
    def compute_infer(self) -> Duration:
        """What computing took."""
        return self.compute.compute_infer

    @property
    def compute_output(self) -> Duration:
        """What handing out the rows took."""
        return self.compute.compute_output

    @property
    def queue_seconds(self) -> Histogram:
        """How long each request waited that was answered with rows."""
        return _of_seconds(self.queue_times, self.queue_ns)

    @property
    def compute_seconds(self) -> Histogram:
        """How long filling the inputs, computing and handing out took, for each of these requests."""
        return _of_seconds(self.compute_times, self.compute.ns)

    @property
    def request_seconds(self) -> Histogram:
        """How long each of these requests took from acceptance to its answer."""
        return _of_seconds(self.request_times, self.queue_ns + self.compute.ns)

    @property
    def batch_size(self) -> Histogram:
        """The rows of each execution."""
        counts = [0] * (len(ROWS_BOUNDS) + 1)
        for rows, executions in self.by_batch_size.items():
            counts[bisect_left(ROWS_BOUNDS, rows)] += executions.count
        return Histogram(ROWS_BOUNDS, tuple(counts), self.inference_count)

    def executed(self, execution: Execution, queued_ns: Sequence[int], now_ms: int) -> None:
        """Add a batch: `queued_ns` says when each request that it answered with rows was accepted.

        Compute time counts once for each request that shared it.
        """
        rows, begun_ns, _, _, ended_ns, goes_on = execution
        self.last_inference_ms = now_ms
        if queued_ns:
            moments_ns = sorted(queued_ns)
            requests = len(moments_ns)
            self.queue_ns += requests * begun_ns - sum(moments_ns)
            self.compute.add(requests, execution)
            _count_times(self.queue_times, moments_ns, begun_ns)
            _count_times(self.request_times, moments_ns, ended_ns)
            self.compute_times[bisect_left(_NS_BOUNDS, ended_ns - begun_ns)] += requests
        if goes_on:
            return
        size = self.by_batch_size.get(rows)
        if size is None:
            size = self.by_batch_size[rows] = Compute()
        size.add(1, execution)

    def failed(self, reason: FailReason, ns: int) -> None:
        """Count a request that ended without rows, `ns` after it had been accepted."""
        (self.cancel if reason is FailReason.CANCELED else self.fail).add(1, ns)
        self.failures[reason] += 1

    def copy(self) -> Statistics:
        """Return figures that stay as these are now."""
        return replace(
            self,
            compute=replace(self.compute),
            by_batch_size={rows: replace(executions) for rows, executions in self.by_batch_size.items()},
            failures=dict(self.failures),
            fail=replace(self.fail),
            cancel=replace(self.cancel),
            responses=deepcopy(self.responses),
            queue_times=list(self.queue_times),
            compute_times=list(self.compute_times),
            request_times=list(self.request_times),
        )


def _count_times(counts: list[int], from_ns: Sequence[int], until_ns: int) -> None:
    """Count the times from these moments, which are ascending, to one: a batch has few buckets, or one."""
    rest = len(from_ns)
    while rest:
        bucket = bisect_left(_NS_BOUNDS, until_ns - from_ns[rest - 1])
        first_ns = until_ns - _NS_BOUNDS[bucket]
        earlier = bisect_left(from_ns, first_ns, 0, rest) if from_ns[0] < first_ns else 0
        counts[bucket] += rest - earlier
        rest = earlier


def _of_seconds(counts: Sequence[int], ns: int) -> Histogram:
    return Histogram(SECONDS_BOUNDS, tuple(counts), ns * 1e-9)
