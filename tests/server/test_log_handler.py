"""Lines that nobody reads hold nobody up."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hosted_server import connected, infer_request
from model_folders import put
from onnx import TensorProto
from onnx_models import Models
from scripted_engines import PATIENCE_SECONDS
from server_process import ServerProcess

from headrace_server.telemetry.log_handler import Handler

PIPE_BYTES = 64 * 1024


@dataclass
class Pipe:
    """A handler that writes into a pipe."""

    handler: Handler
    descriptor: int

    def tell(self, text: str) -> None:
        """Log a line."""
        _tell(self.handler, text)

    def read(self) -> list[str]:
        """Return the whole lines that have come."""
        content = b""
        with os.fdopen(os.dup(self.descriptor), "rb", buffering=0) as file:
            while piece := file.read(PIPE_BYTES):
                content += piece
        return content.decode().split("\n")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w") as stream:
        yield Pipe(Handler(stream), reading)


def _tell(handler: Handler, text: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": text}))


def test_lines_are_whole_and_in_order(pipe: Pipe) -> None:
    for number in range(20):
        pipe.tell(f"{number} {'x' * number * 100}")
    assert pipe.read() == [*(f"{number} {'x' * number * 100}" for number in range(20)), ""]


def test_what_nobody_reads_is_lost_and_told(pipe: Pipe) -> None:
    text = "y" * 9_999
    for _ in range(20):
        pipe.tell(text)
    first = pipe.read()
    whole = len(first) - 1
    assert first[:whole] == [text] * whole
    pipe.tell("again")
    *rest, told, again, end = pipe.read()
    assert [first[-1] + rest[0], *rest[1:]] == [text]
    assert told == f"{20 - whole - 1} lines are lost here, because nobody read them"
    assert (again, end) == ("again", "")


def test_a_line_longer_than_the_pipe_is_written_as_it_is_read(pipe: Pipe) -> None:
    text = "z" * (2 * PIPE_BYTES + 17)
    pipe.tell(text)
    pieces = [pipe.read()]
    while len(pieces[-1]) == 1:
        pipe.tell("lost")
        pieces.append(pipe.read())
    assert "".join(piece[0] for piece in pieces) == text


@pytest.mark.parametrize("how", ["closed", "no file", "nobody there"])
def test_whoever_logs_goes_on(how: str) -> None:
    if how == "no file":
        stream = io.StringIO()
        _tell(Handler(stream), "heard")
        assert stream.getvalue() == "heard\n"
        return
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        handler = Handler(file)
        os.close(reading)
        if how == "nobody there":
            _tell(handler, "unheard")
    _tell(handler, "unheard")


def test_a_server_whose_log_nobody_reads_answers_and_stops(models: Models, tmp_path: Path) -> None:
    put(tmp_path, "m", models.unary("Identity", TensorProto.FLOAT, ("N", 1), ("N", 1)))
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb"),
        os.fdopen(writing, "w") as unread,
        ServerProcess(tmp_path, stderr=unread) as server,
        connected(server.ready()["grpc"]) as stub,
    ):
        _fill(writing)
        row = np.ones((1, 1), np.float32)
        request = infer_request("m", ("x", "FP32", row.shape, row.tobytes()))
        assert stub.ModelInfer(request, timeout=PATIENCE_SECONDS).raw_output_contents == [row.tobytes()]
        server.signal(signal.SIGTERM)  # each step of the stop has its line
        assert server.exit_code() == 0


def _fill(pipe: int) -> None:
    """Write until nothing more is taken."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)
