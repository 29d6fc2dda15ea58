"""What a server process tells those who run it: metrics, its log, and traces of requests."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hosted_server import connected, infer_request
from onnx_models import Models
from server_process import ServerProcess

from headrace_proto.v1 import inference_pb2 as pb

Code = grpc.StatusCode
PATIENCE_SECONDS = 20.0


@pytest.fixture(scope="module")
def repository(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "good" / "1").mkdir(parents=True)
    shutil.copy(models.mlp(), folder / "good" / "1" / "model.onnx")
    return folder


class Watched:
    """A server process, its addresses, and the file for its traces."""

    def __init__(self, process: ServerProcess, trace_file: Path) -> None:
        ready = process.ready()
        self.process = process
        self.trace_file = trace_file
        self.address: str = ready["grpc"]
        self.metrics: str = ready["metrics"]

    def get(self, path: str) -> str:
        """Return what the port for metrics answers, be it an error."""
        request = urllib.request.Request(f"http://{self.metrics}{path}")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def infer(self, *ids: str) -> None:
        """Ask the model once by each of these ids."""
        with connected(self.address) as stub:
            for name in ids:
                stub.ModelInfer(infer_request("good", ("x", "FP32", (1, 4), bytes(16)), id=name))


@pytest.fixture(scope="module")
def watched(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    trace_file = tmp_path_factory.mktemp("traces") / "trace.json"
    with ServerProcess(repository, "--trace-file", str(trace_file)) as process:
        yield Watched(process, trace_file)


def only_error(process: ServerProcess) -> str:
    assert process.exit_code() == 1
    assert not any("Traceback" in line for line in process.log)
    (line,) = [line for line in process.log if "ERROR" in line]
    return line


def test_the_ready_line_tells_where_metrics_are_and_they_count_what_is_asked(watched: Watched) -> None:
    def count() -> int:
        lines = watched.get("/metrics").splitlines()
        start = 'nv_inference_request_success{model="good",version="1"} '
        (value,) = [line.removeprefix(start) for line in lines if line.startswith(start)]
        return int(value)

    before = count()
    watched.infer("a", "b", "c")
    assert count() == before + 3
    page = watched.get("/metrics")
    assert "\nheadrace_ready 1\n" in page
    (took,) = [line for line in page.splitlines() if line.startswith("nv_model_load_duration_secs{")]
    assert 0 < float(took.split()[-1]) < PATIENCE_SECONDS


def test_without_metrics_no_port_is_open_and_none_is_told(repository: Path) -> None:
    with ServerProcess(repository, "--no-allow-metrics") as process:
        assert "metrics" not in process.ready()


def test_a_port_for_metrics_that_is_taken_is_told(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ServerProcess(repository, "--metrics-port", str(port)) as process:
            line = only_error(process)
    assert f"cannot listen on 127.0.0.1 port {port} for metrics: Address already in use" in line
    assert "--metrics-port" in line


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--trace-file", "/dev/full"], "cannot write traces to /dev/full: No space left"),
        (["--trace-level", "TIMESTAMPS"], "--trace-level TIMESTAMPS needs --trace-file"),
    ],
)
def test_traces_that_have_nowhere_to_go_are_told_at_the_start(
    repository: Path, flags: list[str], text: str
) -> None:
    with ServerProcess(repository, *flags) as process:
        assert text in only_error(process)


def test_log_settings_change_what_the_process_logs(watched: Watched) -> None:
    def change(**values: bool | int | str) -> pb.LogSettingsResponse:
        request = pb.LogSettingsRequest()
        for name, value in values.items():
            kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(request.settings[name], kind, value)
        with connected(watched.address) as stub:
            return stub.LogSettings(request)

    told = change().settings
    assert {name: setting.WhichOneof("parameter_choice") for name, setting in told.items()} == {
        "log_file": "string_param", "log_info": "bool_param", "log_warning": "bool_param",
        "log_error": "bool_param", "log_verbose_level": "uint32_param", "log_format": "string_param",
    }  # fmt: skip
    watched.get("/unheard")
    told = change(log_verbose_level=1, log_format="ISO8601").settings
    assert (told["log_verbose_level"].uint32_param, told["log_format"].string_param) == (1, "ISO8601")
    watched.get("/heard")
    line = watched.process.await_log("GET /heard")
    assert line[10] == "T"
    change(log_verbose_level=0, log_format="default")
    watched.get("/unheard")
    change(log_verbose_level=1)
    watched.get("/last")
    watched.process.await_log("GET /last")
    change(log_verbose_level=0)
    assert not any("/unheard" in line for line in watched.process.log)
    with pytest.raises(grpc.RpcError) as refused:
        change(log_info=False, log_warnings=False)
    assert refused.value.code() is Code.INVALID_ARGUMENT
    assert "no log setting 'log_warnings'" in str(refused.value.details())
    with pytest.raises(grpc.RpcError) as refused:
        change(log_file="x")
    assert refused.value.code() is Code.UNIMPLEMENTED
    assert change().settings["log_info"].bool_param


def trace_setting(watched: Watched, model: str = "", **values: list[str]) -> dict[str, list[str]]:
    request = pb.TraceSettingRequest(model_name=model)
    for name, texts in values.items():
        request.settings[name].value.extend(texts)
        request.settings[name].SetInParent()
    with connected(watched.address) as stub:
        told = stub.TraceSetting(request).settings
    return {name: list(setting.value) for name, setting in told.items()}


@pytest.mark.parametrize(
    ("model", "values", "code", "text"),
    [
        ("", {"trace_level": ["TENSORS"]}, Code.UNIMPLEMENTED, "TENSORS"),
        ("", {"trace_file": ["x"]}, Code.UNIMPLEMENTED, "trace_file"),
        ("", {"trace_rate": ["0"]}, Code.INVALID_ARGUMENT, "trace_rate: '0' came"),
        ("", {"trace_pace": ["1"]}, Code.INVALID_ARGUMENT, "did you mean 'trace_rate'?"),
        ("godo", {}, Code.NOT_FOUND, "'godo'"),
    ],
)
def test_trace_settings_that_are_wrong_are_refused(
    watched: Watched, model: str, values: dict[str, list[str]], code: Code, text: str
) -> None:
    before = trace_setting(watched)
    with pytest.raises(grpc.RpcError) as refused:
        trace_setting(watched, model, **values)
    assert refused.value.code() is code
    assert text in str(refused.value.details())
    assert trace_setting(watched) == before


def test_requests_are_traced_as_asked_and_written_by_the_end(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with ServerProcess(repository, "--trace-file", str(file), "--trace-rate", "2") as process:
        watched = Watched(process, file)
        watched.infer("untraced", "as well")
        on = trace_setting(watched, "good", trace_level=["TIMESTAMPS"], trace_count=["2"])
        assert on == {
            "trace_level": ["TIMESTAMPS"], "trace_rate": ["2"], "trace_count": ["2"],
            "log_frequency": ["0"], "trace_file": [str(file)], "trace_mode": ["triton"],
        }  # fmt: skip
        assert trace_setting(watched)["trace_level"] == ["OFF"]
        watched.infer("a", "b", "c", "d", "e", "f")
        cleared = trace_setting(watched, "good", trace_level=[], trace_count=[])
        assert (cleared["trace_level"], cleared["trace_count"]) == (["OFF"], ["-1"])
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0
    members: list[dict[str, Any]] = json.loads(file.read_text())
    assert [one["request_id"] for one in members[::2]] == ["b", "d"]
    assert [len(one["timestamps"]) for one in members[1::2]] == [7, 7]


def test_the_server_says_that_it_traces_and_logs(watched: Watched) -> None:
    with connected(watched.address) as stub:
        told = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert {"trace", "logging", "statistics"} <= set(told.extensions)
    assert "system_shared_memory" not in told.extensions


def test_triton_s_client_reads_and_changes_both(watched: Watched) -> None:
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with triton.InferenceServerClient(watched.address) as client:
        assert client.get_log_settings(as_json=True)["settings"]["log_info"] == {"bool_param": True}
        changed = client.update_log_settings({"log_info": False}, as_json=True)["settings"]
        assert changed["log_info"] == {"bool_param": False}
        client.update_log_settings({"log_info": True})
        assert client.get_trace_settings("good", as_json=True)["settings"]["trace_rate"]["value"] == ["1000"]
        changed = client.update_trace_settings("good", {"trace_rate": "5"}, as_json=True)["settings"]
        assert changed["trace_rate"]["value"] == ["5"]
        cleared = client.update_trace_settings("good", {"trace_rate": None}, as_json=True)["settings"]
        assert cleared["trace_rate"]["value"] == ["1000"]
        (told,) = client.get_inference_statistics("good", as_json=True)["model_stats"]
        assert told["inference_stats"].keys() == {
            "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit",
            "cache_miss",
        }  # fmt: skip
