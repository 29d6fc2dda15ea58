"""As many connections as may be open: what is said of it, and what becomes of further ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_folders import put
from onnx_models import Models
from raw_http2 import DATA, RawConnection
from server_process import ServerProcess
from transports import KINDS

from headrace_server.transport.choice import TransportKind

LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture
def repository(tmp_path: Path, models: Models) -> Path:
    put(tmp_path, "m", models.mlp())
    return tmp_path


@contextlib.contextmanager
def connections(address: str, count: int) -> Iterator[None]:
    """Open so many, each of which has been answered."""
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            client = opened.enter_context(RawConnection(address))
            client.call(1, LIVE)
            client.await_frame(DATA, 1)
        yield


def is_closed(address: str) -> bool:
    with contextlib.suppress(OSError), RawConnection(address) as client:
        client.call(1, LIVE)
        while (frame := client.read()) is not None:
            if frame.kind == DATA:
                return False
    return True


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_invariant_4_what_the_files_leave_is_told_at_the_start_and_once_it_is_used_up(
    repository: Path, kind: TransportKind
) -> None:
    limit = "the limit on open files is 96 (ulimit -n), 48 of which are kept for other things; "
    with ServerProcess(repository, "--grpc-transport", kind.value, open_files=96) as server:
        address = server.ready()["grpc"]
        assert f"at most 48 connections can be open: {limit}" in server.await_log("connections can be open")
        with connections(address, 48):
            told = server.await_log("further ones are closed")
            assert f"48 connections are open or nearly so, further ones are closed: {limit}" in told
            assert is_closed(address)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_invariant_4_as_many_connections_as_were_set_are_told(repository: Path, kind: TransportKind) -> None:
    with ServerProcess(repository, "--grpc-transport", kind.value, "--max-connections", "8") as server:
        address = server.ready()["grpc"]
        with connections(address, 8):
            line = server.await_log("8 connections are open or nearly so")
            assert line.endswith("further ones are closed: --max-connections")
            assert is_closed(address)
        assert not any("connections can be open" in line for line in server.log)
