"""Counts and durations of a model, in the shape of the protocol's ModelStatistics. Added to once a batch.

Whatever arrives for a model ends once: as a success, a failure, or cancelled. So the figures add up:
`failures` holds `fail.count` by reason, with `cancel.count` beside it under CANCELED; the nanoseconds of
`success` are those of `queue` and the three `compute_*` together; the time histograms hold one value for
each success.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from headrace_server.core.histogram import Histogram, count_time, count_times, no_times, of_sizes, of_times
from headrace_server.errors import DeadlineMissed, DeviceLost, EngineFailed, InferenceError, Overloaded


class FailReason(enum.Enum):
    """Why a request got no rows; the values are the protocol's words."""

    REJECTED = "REJECTED"
    """The queue was full, or the deadline passed before the answer."""
    CANCELED = "CANCELED"
    """The caller left before the deadline."""
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

    def add(self, count: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count an execution `count` times."""
        self.count += count
        self.input_ns += count * input_ns
        self.infer_ns += count * infer_ns
        self.output_ns += count * output_ns


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
    on_device: Compute = field(default_factory=Compute)
    """Executions by the clock of the device that executed them: copies to it, computing, copies from it."""
    memory_exhausted: int = 0
    """Batches of several requests that memory did not suffice for, so that they were executed in parts."""
    failures: dict[FailReason, int] = field(default_factory=_no_failures)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    responses: dict[str, ResponseStatistics] = field(default_factory=dict)
    """By the response's number, of a model that may give several to a request."""
    queue_times: list[int] = field(default_factory=no_times)
    """Successes by the time that they waited, in the buckets of `queue_seconds`; the next two likewise."""
    compute_times: list[int] = field(default_factory=no_times)
    request_times: list[int] = field(default_factory=no_times)

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
        return of_times(self.queue_times, self.queue_ns)

    @property
    def compute_seconds(self) -> Histogram:
        """How long filling the inputs, computing and handing out took, for each of these requests."""
        return of_times(self.compute_times, self.compute.ns)

    @property
    def request_seconds(self) -> Histogram:
        """How long each of these requests took from acceptance to its answer."""
        return of_times(self.request_times, self.queue_ns + self.compute.ns)

    @property
    def batch_size(self) -> Histogram:
        """The rows of each execution."""
        return of_sizes({rows: executions.count for rows, executions in self.by_batch_size.items()})

    def executed(self, execution: Execution, queued_ns: Sequence[int], now_ms: int) -> None:
        """Add a batch: `queued_ns` says when each request that it answered with rows was accepted.

        Compute time counts once for each request that shared it.
        """
        rows, begun_ns, started_ns, computed_ns, ended_ns, goes_on = execution
        input_ns = started_ns - begun_ns
        infer_ns = computed_ns - started_ns
        output_ns = ended_ns - computed_ns
        self.last_inference_ms = now_ms
        if queued_ns:
            moments_ns = sorted(queued_ns)
            requests = len(moments_ns)
            self.queue_ns += requests * begun_ns - sum(moments_ns)
            self.compute.add(requests, input_ns, infer_ns, output_ns)
            count_times(self.queue_times, moments_ns, begun_ns)
            count_times(self.request_times, moments_ns, ended_ns)
            count_time(self.compute_times, ended_ns - begun_ns, requests)
        if goes_on:
            return
        size = self.by_batch_size.get(rows)
        if size is None:
            size = self.by_batch_size[rows] = Compute()
        size.add(1, input_ns, infer_ns, output_ns)

    def exhausted(self) -> None:
        """Count a batch that memory did not suffice for."""
        self.memory_exhausted += 1

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
            on_device=replace(self.on_device),
            failures=dict(self.failures),
            fail=replace(self.fail),
            cancel=replace(self.cancel),
            responses=deepcopy(self.responses),
            queue_times=list(self.queue_times),
            compute_times=list(self.compute_times),
            request_times=list(self.request_times),
        )
