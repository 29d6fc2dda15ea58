"""A signal to stop in the middle of a load: what serves is answered, the load is told, the process ends."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest
from closed_loop import ClosedLoop
from gated_programs import GatedProgram
from hosted_server import connected, eventually, infer_request
from model_folders import put
from onnx_models import Models
from server_process import ServerProcess

from headrace_proto.v1 import inference_pb2 as pb

ROW = infer_request("good", ("x", "FP32", (1, 3), bytes(12)))


def test_a_stop_does_not_wait_for_a_load_that_a_caller_began(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "good", models.adding(1))
    program = GatedProgram(tmp_path, "slow", 1, gate="load", adds=1)
    flags = ("--model-control-mode", "explicit", "--load-model", "good", "--allow-python-models")
    with ServerProcess(tmp_path, *flags) as server:
        address = server.ready()["grpc"]
        with connected(address) as stub:
            load = stub.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="slow"))
            eventually(lambda: program.loads == 1, "the load has begun")
            assert_stops(server, address)
            with pytest.raises(grpc.RpcError) as ended:
                load.result()
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "the server is stopping" in ended.value.details()


def test_a_stop_does_not_wait_for_a_load_that_polling_began(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "good", models.adding(1))
    flags = ("--model-control-mode", "poll", "--repository-poll-secs", "0.1", "--allow-python-models")
    with ServerProcess(tmp_path, *flags) as server:
        address = server.ready()["grpc"]
        program = GatedProgram(tmp_path, "slow", 1, gate="load", adds=1)
        eventually(lambda: program.loads == 1, "the load has begun")
        assert_stops(server, address)


def assert_stops(server: ServerProcess, address: str) -> None:
    """Stop the server under load; nothing that it accepted is lost."""
    clients = ClosedLoop(address, ROW)
    clients.await_answers(100)
    server.signal(signal.SIGTERM)
    clients.join()
    assert server.exit_code() == 0
    assert set(clients.outcomes) <= {"OK", "UNAVAILABLE"}, clients.outcomes
    assert not [line for line in server.log if "ERROR" in line or "Traceback" in line or "cut off" in line]
