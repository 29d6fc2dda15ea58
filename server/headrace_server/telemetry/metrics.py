"""The page that Prometheus scrapes: the models, the transport, this process, the machine and its GPUs."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Metric, ProcessCollector

from headrace_server.core.catalogue import Catalogue, ModelState
from headrace_server.core.service import Service
from headrace_server.telemetry.exposition import render
from headrace_server.telemetry.gpus import Gpus
from headrace_server.telemetry.machine import PROC, Processors, memory_bytes
from headrace_server.telemetry.model_metrics import model_metrics


class Traffic(Protocol):
    """What a transport has in hand."""

    @property
    def name(self) -> str:
        """Which transport it is."""

    @property
    def open_calls(self) -> int:
        """Calls and streams that are being answered."""

    @property
    def unsent_calls(self) -> int:
        """Calls whose message has not come."""

    @property
    def open_streams(self) -> int:
        """Streams alone."""

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests that are being answered, and of their answers."""


class Metrics:
    """Reads everything when it is asked for, and nothing in between."""

    def __init__(
        self,
        catalogue: Catalogue,
        service: Service,
        traffic: Traffic,
        version: str,
        gpus: Gpus | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._service = service
        self._traffic = traffic
        self._version = version
        self._gpus = gpus
        self._process = ProcessCollector(registry=None)
        self._processors = Processors() if PROC.is_dir() else None
        self._lock = threading.Lock()

    def page(self) -> bytes:
        """Return all series as text. Any thread may ask."""
        gpus = [] if self._gpus is None else list(self._gpus.metrics())  # which may take its time
        with self._lock:
            return render((*self._metrics(), *gpus))

    def _metrics(self) -> Iterator[Metric]:
        yield from model_metrics(self._catalogue.ready())
        yield self._versions()
        yield from self._server()
        yield from self._machine()
        yield from self._process.collect()

    def _versions(self) -> Metric:
        metric = Metric("headrace_model_ready", "Whether a version that should answer does", "gauge")
        for entry in self._catalogue.index():
            if entry.should_answer:
                labels = {"model": entry.name, "version": entry.version}
                metric.add_sample(metric.name, labels, int(entry.state is ModelState.READY))
        return metric

    def _server(self) -> Iterator[Metric]:
        yield _gauge("headrace_ready", "Whether requests should come here", int(self._service.is_ready()))
        traffic = self._traffic
        yield _gauge("headrace_open_calls", "Calls and streams being answered", traffic.open_calls)
        yield _gauge("headrace_unsent_calls", "Calls whose message has not come", traffic.unsent_calls)
        yield _gauge("headrace_open_streams", "Streams being answered", traffic.open_streams)
        yield _gauge(
            "headrace_in_flight_bytes",
            "Bytes of requests being answered, and of their answers",
            traffic.in_flight_bytes,
        )
        build = Metric("headrace_build_info", "What is running; always 1", "gauge")
        build.add_sample(
            build.name,
            {"version": self._version, "python": platform.python_version(), "grpc_transport": traffic.name},
            1,
        )
        yield build

    def _machine(self) -> Iterator[Metric]:
        if self._processors is None:
            return
        used = self._processors.utilization()
        yield _gauge(
            "nv_cpu_utilization",
            "Share of time (0 to 1) that the processors worked since the last scrape",
            used,
        )
        total_bytes, used_bytes = memory_bytes()
        yield _gauge("nv_cpu_memory_total_bytes", "Main memory", total_bytes)
        yield _gauge("nv_cpu_memory_used_bytes", "Main memory in use", used_bytes)


def _gauge(name: str, text: str, value: float) -> Metric:
    metric = Metric(name, text, "gauge")
    metric.add_sample(name, {}, value)
    return metric
