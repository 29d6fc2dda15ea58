"""The page of metrics over HTTP, beside what the protocol tells of the same traffic."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from gated_server import Gated, answered, expected, gated, rows
from hosted_server import eventually
from metrics_pages import Page
from model_folders import put
from onnx_models import Models
from repositories import explicit
from request_streams import closed
from scripted_engines import Arrays, Gate, Shelf, rows_spec

from headrace_engines.errors import ExecutionError
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.catalogue import Entry, ModelState
from headrace_server.core.model import Limits, Model
from headrace_server.core.service import Service
from headrace_server.core.settings import ModelSettings
from headrace_server.errors import InvalidInput
from headrace_server.telemetry.exposition import render
from headrace_server.telemetry.metrics import Metrics
from headrace_server.telemetry.metrics_server import MetricsServer
from headrace_server.telemetry.model_metrics import model_metrics

Code = grpc.StatusCode
PATIENCE_SECONDS = 20.0
BAD = 666
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "monitoring.md"

COUNTERS = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count",
    "nv_inference_exec_count", "nv_inference_request_duration_us", "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us", "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us", "headrace_memory_exhausted_count",
}  # fmt: skip
TRITON_GAUGES = {
    "nv_inference_pending_request_count", "nv_model_load_duration_secs", "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes",
}  # fmt: skip
HISTOGRAMS = {
    "headrace_request_duration_seconds", "headrace_queue_duration_seconds",
    "headrace_compute_duration_seconds", "headrace_batch_size",
}  # fmt: skip
GAUGES = {
    "headrace_execution_age_seconds", "headrace_model_memory_bytes", "headrace_model_ready",
    "headrace_ready", "headrace_open_calls", "headrace_unsent_calls", "headrace_open_streams",
    "headrace_in_flight_bytes", "headrace_build_info", "headrace_model_instances",
    "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds",
}  # fmt: skip
OF_GPUS = {
    "nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage",
    "headrace_gpu_temperature_celsius", "headrace_gpu_uncorrected_ecc_errors",
}  # fmt: skip
ON_GPUS = {
    "headrace_gpu_exec_count", "headrace_gpu_copy_in_duration_us", "headrace_gpu_compute_duration_us",
    "headrace_gpu_copy_out_duration_us",
}  # fmt: skip


@contextmanager
def metered(one: Gated) -> Iterator[str]:
    """Serve the metrics of a server while the block runs; give their address."""
    metrics = Metrics(one.served.shelf, one.served.service, one.server.transport, "9.8.7")
    server = MetricsServer(metrics.page, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.start()}/metrics"
    server.close()


def scrape(url: str) -> Page:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
        return Page(response.read().decode())


def fail_on_bad_rows(inputs: Arrays) -> None:
    if (inputs[0] == BAD).any():
        raise ExecutionError("666 cannot be computed")


def open_gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


def test_every_series_is_there_with_its_name_its_kind_and_a_text() -> None:
    with gated(open_gate()) as one, metered(one) as url:
        page = scrape(url)
    for names, kind in (
        (COUNTERS, "counter"),
        (TRITON_GAUGES | GAUGES, "gauge"),
        (HISTOGRAMS, "histogram"),
    ):
        assert {name: page.kinds.get(name) for name in names} == dict.fromkeys(names, kind)
    assert page.names >= COUNTERS | TRITON_GAUGES | GAUGES
    assert all(page.helps.values())
    assert page.value("headrace_build_info", version="9.8.7", grpc_transport=one.server.transport.name) == 1
    assert page.value("headrace_ready") == 1
    assert page.value("headrace_model_ready", model="m", version="1") == 1
    assert len(page.values("nv_inference_request_failure", model="m", version="1")) == 4


def test_after_known_traffic_metrics_and_the_protocol_s_statistics_tell_the_same() -> None:
    with gated(open_gate()) as one, metered(one) as url:
        for count in (1, 2, 2, 5):
            values = range(count)
            assert answered(one.stub.ModelInfer(rows(*values))) == expected(*values)
        page = scrape(url)
        (stats,) = one.stub.ModelStatistics(pb.ModelStatisticsRequest(name="m")).model_stats
    told = stats.inference_stats
    assert page.value("nv_inference_request_success") == told.success.count == 4
    assert page.value("nv_inference_count") == stats.inference_count == 10
    assert page.value("nv_inference_exec_count") == stats.execution_count == 4
    for name, duration in (
        ("request", told.success),
        ("queue", told.queue),
        ("compute_input", told.compute_input),
        ("compute_infer", told.compute_infer),
        ("compute_output", told.compute_output),
    ):
        assert duration.count == 4
        assert page.value(f"nv_inference_{name}_duration_us") == pytest.approx(duration.ns / 1000)
    parts = (told.queue, told.compute_input, told.compute_infer, told.compute_output)
    assert told.success.ns == sum(part.ns for part in parts)
    assert {each.batch_size: each.compute_infer.count for each in stats.batch_stats} == {1: 1, 2: 2, 5: 1}
    assert page.failures() == {}
    assert told.fail.count == told.cache_hit.count == told.cache_miss.count == 0
    assert [(usage.type, usage.byte_size) for usage in stats.memory_usage] == [
        ("CPU", page.value("headrace_model_memory_bytes"))
    ]


def test_histograms_hold_every_request_and_every_batch() -> None:
    with gated(open_gate()) as one, metered(one) as url:
        for count in (1, 2, 3, 3, 8):
            one.stub.ModelInfer(rows(*range(count)))
        page = scrape(url)
    for name in HISTOGRAMS:
        buckets = page.values(f"{name}_bucket")
        assert all(below <= above for below, above in pairwise(buckets))
        assert buckets[-1] == page.value(f"{name}_bucket", le="+Inf") == page.value(f"{name}_count") == 5
    sizes = {le: page.value("headrace_batch_size_bucket", le=le) for le in ("1.0", "2.0", "4.0", "8.0")}
    assert sizes == {"1.0": 1, "2.0": 2, "4.0": 4, "8.0": 5}
    assert page.value("headrace_batch_size_sum") == 17
    for name, triton in (("request", "request"), ("queue", "queue")):
        us = page.value(f"nv_inference_{triton}_duration_us")
        assert page.value(f"headrace_{name}_duration_seconds_sum") == pytest.approx(us / 1e6)


def test_a_full_queue_and_a_deadline_that_passed_are_rejections_and_a_caller_who_left_is_canceled() -> None:
    with gated(limits=Limits(max_queue_size=2)) as one, metered(one) as url:
        busy = one.occupy()
        late = one.stub.ModelInfer.future(rows(1, timeout=1))
        with pytest.raises(grpc.RpcError):
            late.result(PATIENCE_SECONDS)
        assert late.code() is Code.DEADLINE_EXCEEDED
        assert scrape(url).failures() == {"REJECTED": 1}
        leaving = one.stub.ModelInfer.future(rows(2))
        staying = one.stub.ModelInfer.future(rows(3))
        one.await_waiting(2)
        assert scrape(url).value("nv_inference_pending_request_count") == 2
        with pytest.raises(grpc.RpcError) as full:
            one.stub.ModelInfer(rows(4))
        assert full.value.code() is Code.RESOURCE_EXHAUSTED
        assert scrape(url).failures() == {"REJECTED": 2}
        leaving.cancel()
        one.await_waiting(1)
        assert scrape(url).failures() == {"REJECTED": 2, "CANCELED": 1}
        one.gate.open()
        assert answered(busy.result(PATIENCE_SECONDS)) == expected(0)
        assert answered(staying.result(PATIENCE_SECONDS)) == expected(3)
        assert scrape(url).value("nv_inference_request_success") == 2
        (stats,) = one.stub.ModelStatistics(pb.ModelStatisticsRequest(name="m")).model_stats
        assert stats.inference_stats.fail.count == 2


def test_the_age_of_an_execution_grows_while_it_has_no_answer_and_is_0_after_it() -> None:
    def age(url: str) -> float:
        return scrape(url).value("headrace_execution_age_seconds", model="m", version="1")

    with gated() as one, metered(one) as url:
        assert age(url) == 0
        busy = one.occupy()
        ages = [age(url), age(url)]
        assert 0 < ages[0] < ages[1]
        one.gate.open()
        busy.result(PATIENCE_SECONDS)
        eventually(lambda: age(url) == 0, "nothing is executed any more")


def test_calls_and_streams_whose_own_deadline_passes_in_the_queue_are_all_rejections() -> None:
    with gated() as one, metered(one) as url:
        busy = one.occupy()
        calls = [one.stub.ModelInfer.future(rows(n), timeout=2.0) for n in range(5)]
        stream = one.stub.ModelStreamInfer(closed(*map(rows, range(5))), timeout=2.0)
        one.await_waiting(10)  # what gRPC ends before it has come here is not counted
        for call in (*calls, stream):
            assert call.code() is Code.DEADLINE_EXCEEDED
        eventually(lambda: scrape(url).failures() == {"REJECTED": 10}, "all are rejections")
        one.gate.open()
        assert answered(busy.result(PATIENCE_SECONDS)) == expected(0)
        assert scrape(url).failures() == {"REJECTED": 10}


def test_an_engine_s_failure_and_a_wrong_request_have_reasons_of_their_own() -> None:
    gate = open_gate()
    with gated(gate) as one, metered(one) as url:
        one.served.engine.before = fail_on_bad_rows
        with pytest.raises(grpc.RpcError) as failed:
            one.stub.ModelInfer(rows(BAD))
        assert failed.value.code() is Code.INTERNAL
        assert scrape(url).failures() == {"BACKEND": 1}
        with pytest.raises(grpc.RpcError) as wrong:
            one.stub.ModelInfer(rows(*range(9)))
        assert wrong.value.code() is Code.INVALID_ARGUMENT
        assert scrape(url).failures() == {"BACKEND": 1, "OTHER": 1}
        assert scrape(url).value("nv_inference_request_success") == 0


def test_what_is_open_is_told_while_it_is() -> None:
    with gated() as one, metered(one) as url:
        busy = one.occupy()
        page = scrape(url)
        assert (page.value("headrace_open_calls"), page.value("headrace_open_streams")) == (1, 0)
        assert page.value("headrace_in_flight_bytes") >= 16
        stream = one.stub.ModelStreamInfer(iter([rows(1)]))
        one.await_waiting(1)
        page = scrape(url)
        assert (page.value("headrace_open_calls"), page.value("headrace_open_streams")) == (2, 1)
        one.gate.open()
        busy.result(PATIENCE_SECONDS)
        assert len(list(stream)) == 1
        eventually(lambda: scrape(url).value("headrace_open_calls") == 0, "all calls have ended")
        page = scrape(url)
        assert (page.value("headrace_open_streams"), page.value("headrace_in_flight_bytes")) == (0, 0)


def test_a_model_that_is_lost_and_a_server_that_leaves_are_told() -> None:
    with gated(open_gate()) as one, metered(one) as url:
        one.served.model.lose("gone", [])
        page = scrape(url)
        assert (page.value("headrace_model_ready", model="m"), page.value("headrace_ready")) == (0, 0)
        assert page.values("nv_inference_count") == []


def test_only_a_version_that_should_answer_and_does_not_is_told_as_down(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    put(tmp_path, "other", models.adding(1))
    with gated(open_gate()) as one, explicit(tmp_path, load=("*",)) as repository:
        metrics = Metrics(repository.catalogue, Service(repository.catalogue), one.server.transport, "9.8.7")
        put(tmp_path, "m", models.adding(2), 2)
        put(tmp_path, "bad", b"no model")
        repository.load_model("m")
        repository.unload_model("other")
        with pytest.raises(InvalidInput):
            repository.load_model("bad")
        page = Page(metrics.page().decode())
        assert page.value("headrace_model_ready", model="m", version="2") == 1
        assert page.value("headrace_model_ready", model="bad", version="1") == 0
        assert len(page.values("headrace_model_ready")) == 2
        eventually(
            lambda: Entry("m", "1", ModelState.UNAVAILABLE, "unloaded") in repository.index(), "it is drained"
        )
        assert len(Page(metrics.page().decode()).values("headrace_model_ready")) == 2


def test_labels_tell_the_model_its_version_and_its_own_tags() -> None:
    settings = ModelSettings(metric_tags={"team": 'the "blue"\none'})
    models = [
        Model("a", "1", rows_spec(), "scripted", Limits(), settings=settings, memory_bytes=7),
        Model("a", "12", rows_spec(), "scripted", Limits()),
    ]
    models[1].load_seconds = 1.5
    page = Page(render(model_metrics(models)).decode())
    assert page.value("headrace_model_memory_bytes", version="1", _team='the "blue"\none') == 7
    assert page.value("nv_model_load_duration_secs", version="12") == 1.5
    assert len(page.values("nv_inference_request_failure", model="a", _team='the "blue"\none')) == 4


def test_a_server_without_models_tells_of_itself() -> None:
    with gated(open_gate()) as one:
        one.served.shelf = Shelf()
        with metered(one) as url:
            page = scrape(url)
    assert not COUNTERS & page.kinds.keys()
    assert page.value("headrace_build_info") == 1


def test_models_that_a_gpu_told_its_times_of_tell_them_and_others_have_no_such_series() -> None:
    models = [Model(name, "1", rows_spec(), "scripted", Limits()) for name in ("on_gpu", "on_cpu")]
    models[0].count(lambda statistics: statistics.on_device.add(2, 1000, 30_000, 500))
    page = Page(render(model_metrics(models)).decode())
    assert {page.kinds[name] for name in ON_GPUS} == {"counter"}
    assert {name: page.values(name) for name in ON_GPUS} == {
        "headrace_gpu_exec_count": [2],
        "headrace_gpu_copy_in_duration_us": [2],
        "headrace_gpu_compute_duration_us": [60],
        "headrace_gpu_copy_out_duration_us": [1],
    }
    assert page.value("headrace_gpu_exec_count", model="on_gpu", version="1") == 2


def test_what_each_model_runs_on_is_told() -> None:
    three = ModelSettings(instances=3)
    models = [Model(name, "1", rows_spec(), "a plan", Limits(), settings=three) for name in ("a", "b")]
    models[0].places = ((0, 1), (7, 2))
    page = Page(render(model_metrics(models)).decode())
    told = {"platform": "a plan", "version": "1"}
    assert page.value("headrace_model_instances", model="a", kind="gpu", gpu="0", **told) == 1
    assert page.value("headrace_model_instances", model="a", kind="gpu", gpu="7", **told) == 2
    assert page.value("headrace_model_instances", model="b", kind="cpu", gpu="", **told) == 3
    assert page.values("headrace_model_instances") == [1, 2, 3]


def test_the_documentation_names_every_series_and_no_other() -> None:
    told = set(re.findall(r"\b((?:nv|headrace)_[a-z_]+)\b", DOCUMENTATION.read_text(encoding="utf-8")))
    told = {name.removesuffix("_bucket") for name in told}
    served = COUNTERS | TRITON_GAUGES | HISTOGRAMS | GAUGES
    served = {name for name in served if name.startswith(("nv_", "headrace_"))}
    assert told == served | OF_GPUS | ON_GPUS
    with gated(open_gate()) as one, metered(one) as url:
        page = scrape(url)
    assert {name for name in page.kinds if name.startswith(("nv_", "headrace_"))} == served
