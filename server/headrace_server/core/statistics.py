"""Counts and durations of a model, in the shape of the protocol's ModelStatistics. Added to once a batch."""

from __future__ import annotations

from dataclasses import dataclass, field


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
class BatchSizeStatistics:
    """The executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(frozen=True, slots=True)
class Execution:
    """One executed batch: nanoseconds for filling the inputs, computing, and handing out the rows."""

    rows: int
    requests: int
    request_ns: int
    """From acceptance to answer, summed over the requests."""
    queue_ns: int
    """From acceptance to the batch's start, summed over the requests."""
    input_ns: int
    infer_ns: int
    output_ns: int


@dataclass(slots=True)
class Statistics:
    """Since the model was loaded. The owner serialises changes; reading may see a batch half added."""

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

    def executed(self, execution: Execution, now_ms: int) -> None:
        """Add a batch that was answered. Compute time counts once for each request that shared it."""
        n = execution.requests
        self.last_inference_ms = now_ms
        self.inference_count += execution.rows
        self.execution_count += 1
        self.success.add(n, execution.request_ns)
        self.queue.add(n, execution.queue_ns)
        self.compute_input.add(n, n * execution.input_ns)
        self.compute_infer.add(n, n * execution.infer_ns)
        self.compute_output.add(n, n * execution.output_ns)
        size = self.by_batch_size.get(execution.rows)
        if size is None:
            size = self.by_batch_size[execution.rows] = BatchSizeStatistics()
        size.compute_input.add(1, execution.input_ns)
        size.compute_infer.add(1, execution.infer_ns)
        size.compute_output.add(1, execution.output_ns)
