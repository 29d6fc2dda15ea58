"""The life of the process: how it starts, refuses to, and stops."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from closed_loop import ClosedLoop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hosted_server import connected, infer_request
from onnx import TensorProto, helper
from onnx_models import Models
from server_process import ServerProcess

from headrace_proto import __version__
from headrace_proto.v1 import inference_pb2 as pb

Code = grpc.StatusCode
ROW = infer_request("good", ("x", "FP32", (1, 4), bytes(16)))
PATIENCE_SECONDS = 20.0


def add(repository: Path, name: str, model: Path | bytes) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    if isinstance(model, bytes):
        (folder / "model.onnx").write_bytes(model)
    else:
        shutil.copy(model, folder / "model.onnx")


@pytest.fixture(scope="module")
def repository(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model, and a broken one beside it."""
    folder = tmp_path_factory.mktemp("models")
    add(folder, "good", models.mlp())
    add(folder, "broken", b"no model")
    return folder


def only_error(server: ServerProcess) -> str:
    """Return the one line that says why the server did not start."""
    assert server.exit_code() == 1
    assert not any("Traceback" in line for line in server.log)
    (line,) = [line for line in server.log if "ERROR" in line and "is not served" not in line]
    return line


def test_the_ready_line_a_broken_model_beside_a_good_one_and_sigterm(repository: Path) -> None:
    with ServerProcess(repository) as server:
        ready = server.ready()
        assert ready == {
            "event": "ready",
            "grpc": ready["grpc"],
            "metrics": ready["metrics"],
            "models": {"good": "1"},
            "version": __version__,
        }
        host, port = ready["grpc"].rsplit(":", 1)
        assert host == "127.0.0.1"
        assert 0 < int(port) < 65536
        with connected(ready["grpc"]) as stub:
            assert stub.ModelInfer(ROW).outputs[0].name == "y"
            assert stub.ServerReady(pb.ServerReadyRequest()).ready
            index = {one.name: one for one in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
            assert (index["good"].state, index["broken"].state) == ("READY", "UNAVAILABLE")
            assert "model.onnx" in index["broken"].reason
        with grpc.insecure_channel(ready["grpc"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            states = {
                name: health.Check(health_pb2.HealthCheckRequest(service=name)).status
                for name in ("", "model:good", "model:broken")
            }
            assert states == {"": 1, "model:good": 1, "model:broken": 2}
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert server.rest_of_stdout() == ""
        assert any("model broken version 1 is not served" in line for line in server.log)
        assert server.log[-1].endswith("stopped")


def test_a_variable_that_is_misspelt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MAX_QUEUE_SZE", "5")
    with ServerProcess(tmp_path / "none") as server:
        server.await_log("WARNING")
        assert "HEADRACE_MAX_QUEUE_SIZE is one" in server.await_log("HEADRACE_MAX_QUEUE_SZE")
        only_error(server)


def test_a_port_that_is_taken_is_told(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with ServerProcess(repository, port=port) as server:
            line = only_error(server)
            assert f"cannot listen on 127.0.0.1:{port}: the port is taken" in line


@pytest.mark.parametrize(
    ("host", "why"),
    [("host.invalid", "the host does not resolve"), ("192.0.2.1", "cannot assign requested address")],
)
def test_a_host_that_is_nobody_s_is_told(repository: Path, host: str, why: str) -> None:
    with ServerProcess(repository, "--host", host) as server:
        assert f"cannot listen on {host}:0: {why}" in only_error(server)


@pytest.mark.parametrize("open_files", [8, 10, 13, 31])
def test_too_few_open_files_are_told_and_nothing_else(repository: Path, open_files: int) -> None:
    with ServerProcess(repository, open_files=open_files) as server:
        assert server.exit_code() == 1
        (line,) = server.log
        assert f"the limit on open files is {open_files}, and a server needs 32" in line


def test_a_second_server_on_the_port_of_the_first_is_told(repository: Path) -> None:
    with ServerProcess(repository) as first:
        address = first.ready()["grpc"]
        with ServerProcess(repository, port=int(address.rsplit(":", 1)[1])) as second:
            assert f"cannot listen on {address}" in only_error(second)
        with connected(address) as stub:
            assert stub.ModelInfer(ROW).outputs


@pytest.mark.parametrize(
    ("name", "text"), [("none", "there is no model repository at"), ("empty", "is empty")]
)
def test_a_repository_that_is_missing_or_empty_is_told(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "empty").mkdir()
    with ServerProcess(tmp_path / name) as server:
        line = only_error(server)
        assert text in line
        assert str(tmp_path / name) in line


def test_a_server_with_broken_models_alone_does_not_start(tmp_path: Path) -> None:
    add(tmp_path, "broken", b"no model")
    with ServerProcess(tmp_path) as server:
        assert "no model could be loaded: broken: " in only_error(server)


def test_a_stdout_that_cannot_be_written_is_told(repository: Path) -> None:
    with Path("/dev/full").open("w") as full, ServerProcess(repository, stdout=full) as server:
        assert server.exit_code() == 1
        assert any("cannot write the ready line to stdout: No space left" in line for line in server.log)


def test_json_logs_and_sigint(repository: Path) -> None:
    with ServerProcess(repository, "--log-format", "json") as server:
        server.ready()
        server.signal(signal.SIGINT)
        assert server.exit_code() == 0
        lines = [json.loads(line) for line in server.log]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        assert lines[-1]["message"] == "stopped"
        assert any(line["level"] == "error" and "broken" in line["message"] for line in lines)


def test_invariant_5_sigterm_under_load_loses_nothing_that_was_accepted(repository: Path) -> None:
    with ServerProcess(repository) as server:
        clients = ClosedLoop(server.ready()["grpc"], ROW)
        clients.await_answers(400)
        begun = len(server.log)
        server.signal(signal.SIGTERM)
        clients.join()
        assert server.exit_code() == 0
        assert clients.outcomes["OK"] >= 380
        assert set(clients.outcomes) <= {"OK", "UNAVAILABLE"}, clients.outcomes
        assert not [line for line in server.log[begun:] if "ERROR" in line or "cut off" in line]


def looping(models: Models, *, iterations: int | None) -> Path:
    """A model without a batch axis that multiplies matrices: as often as asked for, or so many times."""
    side = 192
    matrix = (TensorProto.FLOAT, (side, side))
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "w"], ["after"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("before", *matrix),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("after", *matrix),
        ],
    )
    weights = {"w": np.eye(side, dtype=np.float32), "go": np.array(True)}
    if iterations is not None:
        weights["rounds"] = np.array(iterations)
    asked: dict[str, tuple[int, tuple[int, ...]]] = {"rounds": (TensorProto.INT64, ())}
    return models.save(
        [
            helper.make_node("Loop", ["rounds", "go", "w"], ["last"], body=body),
            helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "x"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, (1,)), **(asked if iterations is None else {})},
        {"y": (TensorProto.FLOAT, (1,))},
        weights,
    )


@pytest.fixture(scope="module")
def slow_repository(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model, and one that is busy for as long as it is asked to be."""
    folder = tmp_path_factory.mktemp("slow_models")
    add(folder, "good", models.mlp())
    add(folder, "slow", looping(models, iterations=None))
    return folder


@contextmanager
def busy(address: str) -> Iterator[None]:
    """Occupy the slow model for minutes; the answer to a later request proves that it was accepted."""
    rounds = np.array(10_000_000).tobytes()
    slow = infer_request("slow", ("x", "FP32", (1,), bytes(4)), ("rounds", "INT64", (), rounds))
    with connected(address) as stub:
        stream = stub.ModelStreamInfer(iter([slow, ROW]))
        assert next(stream).infer_response.model_name == "good"
        yield
        stream.cancel()


def test_a_second_signal_ends_the_process_at_once(slow_repository: Path) -> None:
    with (
        ServerProcess(slow_repository, "--exit-timeout-secs", "60") as server,
        busy(server.ready()["grpc"]),
    ):
        server.signal(signal.SIGTERM)
        server.await_log("a second signal ends the process at once")
        server.signal(signal.SIGTERM)
        assert server.exit_code() == -signal.SIGTERM, "the signal ended it, and not the end of its work"


def test_signals_that_come_together_are_one(slow_repository: Path) -> None:
    rounds = np.array(10_000).tobytes()
    slow = infer_request("slow", ("x", "FP32", (1,), bytes(4)), ("rounds", "INT64", (), rounds))
    with ServerProcess(slow_repository) as server, connected(server.ready()["grpc"]) as stub:
        stream = stub.ModelStreamInfer(iter([slow, ROW]))
        assert next(stream).infer_response.model_name == "good"
        server.signal(signal.SIGTERM)
        server.await_log("stopping")
        server.signal(signal.SIGTERM)
        server.await_log("taken for the same")
        assert next(stream).infer_response.model_name == "slow"
        assert server.exit_code() == 0


def test_what_is_not_answered_within_the_exit_timeout_is_cut_off(slow_repository: Path) -> None:
    with (
        ServerProcess(slow_repository, "--exit-timeout-secs", "1") as server,
        busy(server.ready()["grpc"]),
    ):
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        waits = [r"1 calls were cut off after (\S+) s", r"not finished in (\S+) s: slow version 1"]
        told = [re.search(wait, "\n".join(server.log)) for wait in waits]
        assert sum(float(wait[1]) for wait in told if wait) == 1, "both waits share the time"
        assert all(told)


def test_idle_streams_and_watches_do_not_delay_a_stop(repository: Path) -> None:
    with ServerProcess(repository, "--exit-timeout-secs", "60") as server:
        address = server.ready()["grpc"]
        half_open = threading.Event()

        def requests() -> Iterator[pb.ModelInferRequest]:
            yield ROW
            half_open.wait(PATIENCE_SECONDS)

        with connected(address) as stub, grpc.insecure_channel(address) as channel:
            stream = stub.ModelStreamInfer(requests())
            next(stream)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            begun = time.monotonic()
            server.signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert server.exit_code() == 0
            assert time.monotonic() - begun < 10
            with pytest.raises(grpc.RpcError) as ended:
                next(stream)
            assert ended.value.code() is Code.UNAVAILABLE
            half_open.set()


def test_while_models_load_the_server_is_live_and_not_ready_and_can_be_stopped(
    tmp_path: Path, models: Models
) -> None:
    model = looping(models, iterations=3_000)
    for number in range(6):
        add(tmp_path, f"slow{number}", model)
    with ServerProcess(tmp_path, "--model-load-thread-count", "1") as server:
        address = server.await_log("listening on").split("listening on ")[1].split(",")[0]
        with connected(address) as stub:
            assert stub.ServerLive(pb.ServerLiveRequest()).live
            assert not stub.ServerReady(pb.ServerReadyRequest()).ready
            assert not stub.ModelReady(pb.ModelReadyRequest(name="slow5")).ready
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(infer_request("slow5", ("x", "FP32", (1,), bytes(4))))
            assert refused.value.code() is Code.UNAVAILABLE
            assert refused.value.details() == "model 'slow5' is being loaded"
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert server.rest_of_stdout() == ""
        assert sum("is ready after" in line for line in server.log) < 6
        assert server.log[-1].endswith("stopped")
        assert not any("ERROR" in line for line in server.log)
