"""What is told of each model to Prometheus: Triton's series, and histograms of our own.

Everything is read from the core's statistics when it is asked for, so that requests pay nothing for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client import Metric

from headrace_server.core.histogram import Histogram
from headrace_server.core.model import Model
from headrace_server.core.statistics import Statistics
from headrace_server.telemetry.exposition import number


class _Reading(NamedTuple):
    """One version's figures at the moment of a scrape."""

    labels: Mapping[str, str]
    model: Model
    statistics: Statistics


def _executing_seconds(model: Model) -> float:
    """Return how long the instance executes that gave its last answer longest ago; 0 while none does."""
    since_ns = min((one.since_ns for one in model.instances.executing()), default=None)
    return 0.0 if since_ns is None else (time.monotonic_ns() - since_ns) * 1e-9


_COUNTERS: Final[tuple[tuple[str, str, Callable[[Statistics], float]], ...]] = (
    (
        "nv_inference_request_success",
        "Requests that were answered with rows",
        lambda of: of.success.count,
    ),
    (
        "nv_inference_count",
        "Rows that were executed",
        lambda of: of.inference_count,
    ),
    (
        "nv_inference_exec_count",
        "Executions: batches, each of one or more requests",
        lambda of: of.execution_count,
    ),
    (
        "nv_inference_request_duration_us",
        "Microseconds from arrival to answer, summed over successful requests",
        lambda of: of.success.ns / 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Microseconds from arrival to execution, summed over successful requests",
        lambda of: of.queue.ns / 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Microseconds for filling the inputs of their batch, summed over successful requests",
        lambda of: of.compute_input.ns / 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Microseconds for computing their batch, summed over successful requests",
        lambda of: of.compute_infer.ns / 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Microseconds for writing the answers of their batch, summed over successful requests",
        lambda of: of.compute_output.ns / 1000,
    ),
    (
        "headrace_memory_exhausted_count",
        "Batches that memory did not suffice for, and that were executed in parts",
        lambda of: of.memory_exhausted,
    ),
)
_ON_GPU: Final[tuple[tuple[str, str, Callable[[Statistics], float]], ...]] = (
    (
        "headrace_gpu_exec_count",
        "Executions that a GPU told its times of",
        lambda of: of.on_device.count,
    ),
    (
        "headrace_gpu_copy_in_duration_us",
        "Microseconds of copying to the GPU, summed over these executions",
        lambda of: of.on_device.input_ns / 1000,
    ),
    (
        "headrace_gpu_compute_duration_us",
        "Microseconds of computing on the GPU, summed over these executions",
        lambda of: of.on_device.infer_ns / 1000,
    ),
    (
        "headrace_gpu_copy_out_duration_us",
        "Microseconds of copying from the GPU, summed over these executions",
        lambda of: of.on_device.output_ns / 1000,
    ),
)
_FAILURES: Final = (
    "nv_inference_request_failure",
    "Requests that were not: REJECTED, the queue was full or the deadline passed; CANCELED, the caller left "
    "before it; BACKEND, the engine failed; OTHER",
)
_GAUGES: Final[tuple[tuple[str, str, Callable[[Model], float]], ...]] = (
    (
        "nv_inference_pending_request_count",
        "Requests that wait for execution",
        lambda of: of.waiting,
    ),
    (
        "headrace_execution_age_seconds",
        "Seconds since what is executed began or gave its last answer, of all instances the most; else 0",
        _executing_seconds,
    ),
    (
        "nv_model_load_duration_secs",
        "Seconds that loading and warming up took",
        lambda of: of.load_seconds,
    ),
    (
        "headrace_model_memory_bytes",
        "Bytes of the model's files and staging buffers",
        lambda of: of.memory_bytes,
    ),
)
_INSTANCES: Final = (
    "headrace_model_instances",
    "Instances, by what they run on: kind is cpu or gpu, gpu the index of one",
)
_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[Statistics], Histogram]], ...]] = (
    (
        "headrace_request_duration_seconds",
        "Time from arrival to answer of successful requests",
        lambda of: of.request_seconds,
    ),
    (
        "headrace_queue_duration_seconds",
        "Time from arrival to execution of successful requests",
        lambda of: of.queue_seconds,
    ),
    (
        "headrace_compute_duration_seconds",
        "Time from the beginning of execution to the answer of successful requests",
        lambda of: of.compute_seconds,
    ),
    (
        "headrace_batch_size",
        "Rows of an execution",
        lambda of: of.batch_size,
    ),
)


def model_metrics(models: Sequence[Model]) -> Iterator[Metric]:
    """Return the series of these models; each one's figures are of one moment."""
    readings = [_Reading(_labels(model), model, model.snapshot()) for model in models]
    for name, text, count in _COUNTERS:
        yield _plain(name, text, "counter", [(of.labels, count(of.statistics)) for of in readings])
    on_gpu = [of for of in readings if of.statistics.on_device.count]
    for name, text, count in _ON_GPU:
        yield _plain(name, text, "counter", [(of.labels, count(of.statistics)) for of in on_gpu])
    failures = [
        ({**of.labels, "reason": reason.value}, count)
        for of in readings
        for reason, count in of.statistics.failures.items()
    ]
    yield _plain(*_FAILURES, "counter", failures)
    for name, text, value in _GAUGES:
        yield _plain(name, text, "gauge", [(of.labels, value(of.model)) for of in readings])
    instances = [(labels, count) for of in readings for labels, count in _placed(of)]
    yield _plain(*_INSTANCES, "gauge", instances)
    for name, text, histogram in _HISTOGRAMS:
        yield _histogram(name, text, [(of.labels, histogram(of.statistics)) for of in readings])


def _placed(reading: _Reading) -> Iterator[tuple[Mapping[str, str], int]]:
    platform = reading.model.facts.platform
    for gpu, count in reading.model.places:
        place = {"kind": "cpu", "gpu": ""} if gpu is None else {"kind": "gpu", "gpu": str(gpu)}
        yield {**reading.labels, "platform": platform, **place}, count


def _labels(model: Model) -> dict[str, str]:
    facts = model.facts
    tags = {f"_{name}": value for name, value in facts.settings.metric_tags.items()}
    return {"model": facts.name, "version": facts.version, **tags}


def _plain(name: str, text: str, kind: str, values: Sequence[tuple[Mapping[str, str], float]]) -> Metric:
    metric = Metric(name, text, kind)
    for labels, value in values:
        metric.add_sample(name, dict(labels), value)
    return metric


def _histogram(name: str, text: str, values: Sequence[tuple[Mapping[str, str], Histogram]]) -> Metric:
    metric = Metric(name, text, "histogram")
    for labels, histogram in values:
        up_to = list(accumulate(histogram.counts))
        for bound, count in zip((*histogram.bounds, float("inf")), up_to, strict=True):
            metric.add_sample(f"{name}_bucket", {**labels, "le": number(bound)}, count)
        metric.add_sample(f"{name}_sum", dict(labels), histogram.sum)
        metric.add_sample(f"{name}_count", dict(labels), up_to[-1])
    return metric
