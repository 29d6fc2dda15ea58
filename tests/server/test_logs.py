from __future__ import annotations

import datetime
import io
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hosted_server import connected, infer_request
from model_folders import put
from onnx import TensorProto
from onnx_models import Models
from server_process import ServerProcess

from headrace_server.telemetry import logs


@pytest.fixture(autouse=True)
def root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_carry_time_level_logger_message_and_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.set_up("info", "json")
    logger = logging.getLogger("headrace_server.test")
    logger.debug("unheard")
    logger.info("line one\nline %s", "zwei €")
    try:
        int("why")
    except ValueError:
        logger.exception("it failed")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = map(json.loads, captured.err.splitlines())
    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"]) == ("info", "headrace_server.test")
    assert first["message"] == "line one\nline zwei €"
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(first["time"])
    assert abs(age) < datetime.timedelta(minutes=1)
    assert second["level"] == "error"
    assert "ValueError: invalid literal" in second["exception"]


def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("warning", "text")
    logging.getLogger("headrace_server.test").info("unheard")
    logging.getLogger("headrace_server.test").warning("model %s is slow", "m")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("WARNING model m is slow\n")


def test_a_line_of_text_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "text")
    logging.getLogger("headrace_server.test").info(
        "model %s is slow", "m\n12:00:00 INFO forged \x1b[2K\udce9"
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"model m\n12:00:00 INFO forged \x1b[2K\xe9 is slow")


def test_who_logs_goes_on_though_stderr_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    logs.set_up("info", "text")
    closed.close()
    logging.getLogger("headrace_server.test").info("nobody hears of it")


@pytest.mark.parametrize(("level", "heard"), [("info", logging.WARNING), ("error", logging.ERROR)])
def test_libraries_do_not_fill_the_log(level: str, heard: int) -> None:
    logs.set_up(level, "text")
    assert logging.getLogger("httpx").getEffectiveLevel() == heard


def test_callers_who_leave_do_not_fill_the_log(models: Models, tmp_path: Path) -> None:
    """A client that takes no answer of this size gives its call up while the answer is on its way."""
    row = np.zeros((1, 1_500_000), np.float32)
    request = infer_request("wide", ("x", "FP32", row.shape, row.tobytes()))
    put(tmp_path, "wide", models.unary("Identity", TensorProto.FLOAT, ("N", "L"), ("N", "L")))
    with ServerProcess(tmp_path) as server, connected(server.ready()["grpc"]) as stub:
        for _ in range(3):
            with pytest.raises(grpc.RpcError, match="larger than max"):
                stub.ModelInfer(request)
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert not [line for line in server.log if "ERROR" in line or "Traceback" in line]
