"""What GPUs tell of themselves, on the page of metrics."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from metrics_pages import Page
from scripted_engines import PATIENCE_SECONDS

from headrace_server.telemetry.exposition import render
from headrace_server.telemetry.gpus import Gpus


@dataclass(frozen=True)
class Sample:
    """A GPU that tells some of it."""

    utilisation: float | None = 0.5
    memory_total: int | None = 80 << 30
    memory_used: int | None = 3 << 30
    power_watts: float | None = None
    temperature_celsius: float | None = 41
    uncorrected_ecc: int | None = 0


class Source:
    """GPUs that count how often they are read, and the clock beside them."""

    def __init__(self, samples: Mapping[str, Sample]) -> None:
        self.samples = samples
        self.times = 0
        self.now = 100.0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_read = threading.Event()
        self.gpus = Gpus(self.read, lambda: self.now)

    def read(self) -> Mapping[str, Sample]:
        self.times += 1
        self.is_read.set()
        assert self.goes_on.wait(PATIENCE_SECONDS)
        return self.samples

    def page(self) -> Page:
        return Page(render(self.gpus.metrics()).decode())


def test_each_gpu_tells_what_it_can_by_its_uuid() -> None:
    page = Source({"GPU-1": Sample(), "GPU-2": Sample(utilisation=1.0, power_watts=350.5)}).page()
    assert page.value("nv_gpu_utilization", gpu_uuid="GPU-1") == 0.5
    assert page.value("nv_gpu_utilization", gpu_uuid="GPU-2") == 1.0
    assert page.value("nv_gpu_memory_total_bytes", gpu_uuid="GPU-1") == 80 << 30
    assert page.value("nv_gpu_memory_used_bytes", gpu_uuid="GPU-1") == 3 << 30
    assert page.values("nv_gpu_power_usage") == [350.5], "the other one does not tell"
    assert page.value("headrace_gpu_temperature_celsius", gpu_uuid="GPU-2") == 41
    assert page.value("headrace_gpu_uncorrected_ecc_errors", gpu_uuid="GPU-2") == 0
    assert set(page.kinds.values()) == {"gauge"}


def test_without_a_gpu_there_are_no_such_series() -> None:
    assert not Source({}).page().names


def test_gpus_are_read_at_most_once_a_second() -> None:
    source = Source({"GPU-1": Sample()})
    for now in (100.0, 100.5, 100.9):
        source.now = now
        assert source.page().values("nv_gpu_utilization") == [0.5]
    assert source.times == 1
    source.now = 101.0
    source.page()
    assert source.times == 2


def test_a_gpu_that_does_not_answer_holds_up_one_scrape_and_is_left_out_once_what_is_known_is_old() -> None:
    source = Source({"GPU-1": Sample()})
    source.page()
    source.now = 102.0
    source.is_read.clear()
    source.goes_on.clear()
    stuck = threading.Thread(target=source.page, daemon=True)
    stuck.start()
    assert source.is_read.wait(PATIENCE_SECONDS)
    assert source.page().values("nv_gpu_utilization") == [0.5]
    source.now = 112.0
    assert not source.page().names
    source.goes_on.set()
    stuck.join(PATIENCE_SECONDS)
    assert source.page().values("nv_gpu_utilization") == [0.5]


def test_after_a_reading_that_failed_the_next_one_is_tried() -> None:
    source = Source({"GPU-1": Sample()})
    fails = Gpus(lambda: (_ for _ in ()).throw(RuntimeError("no driver")), lambda: source.now)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            list(fails.metrics())
