"""Which transport serves, and what is said about it."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest
from hosted_server import connected
from model_folders import put
from onnx_models import Models
from server_process import ServerProcess

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.transport.choice import TransportError, TransportKind, chosen
from headrace_server.transport.completion_queue import support

AUTO, QUEUE, AIO = TransportKind.AUTO, TransportKind.COMPLETION_QUEUE, TransportKind.AIO


@pytest.mark.parametrize(
    ("asked", "reason", "expected"),
    [(AUTO, None, QUEUE), (AUTO, "too new", AIO), (QUEUE, None, QUEUE), (AIO, None, AIO), (AIO, "x", AIO)],
)
def test_the_faster_one_serves_where_it_can_be_trusted(
    monkeypatch: pytest.MonkeyPatch, asked: TransportKind, reason: str | None, expected: TransportKind
) -> None:
    monkeypatch.setattr(support, "why_not", lambda: reason)
    assert chosen(asked) is expected


def test_a_fallback_is_told_in_one_line_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(support, "why_not", lambda: "grpcio 9 is installed")
    with caplog.at_level(logging.INFO):
        chosen(AUTO)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "--grpc-transport aio" in record.getMessage()
    assert "grpcio 9 is installed" in record.getMessage()


def test_one_that_was_asked_for_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "why_not", lambda: "grpcio 9 is installed")
    with pytest.raises(TransportError, match="completion-queue cannot serve: grpcio 9 is installed"):
        chosen(QUEUE)


def test_a_server_says_once_why_it_falls_back_and_serves(models: Models, tmp_path: Path) -> None:
    put(tmp_path, "m", models.mlp())
    with ServerProcess(tmp_path, "--grpc-transport", "auto") as server:
        with connected(server.ready()["grpc"]) as stub:
            assert stub.ServerReady(pb.ServerReadyRequest()).ready
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
    reason = support.why_not()
    told = [line for line in server.log if "--grpc-transport aio" in line]
    assert [line.partition("a call: ")[2] for line in told] == ([reason] if reason else [])
