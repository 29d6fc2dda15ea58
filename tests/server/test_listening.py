"""Ports and sockets that a server listens on, and what stands in its way."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosted_server import HostedServer, connected, hosted
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.transport.listening import PortError

PATIENCE_SECONDS = 10.0


@contextmanager
def listening(*listen: str) -> Iterator[HostedServer]:
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, listen=list(listen)) as it,
    ):
        yield it


def is_live(address: str) -> bool:
    with connected(address) as stub:
        return bool(stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_SECONDS).live)


def test_every_address_is_answered_at_and_sockets_are_gone_after_the_stop(tmp_path: Path) -> None:
    paths = [tmp_path / "one.sock", tmp_path / "two.sock"]
    with listening("127.0.0.1:0", "127.0.0.1:0", *(f"unix:{path}" for path in paths)) as server:
        assert len(set(server.addresses)) == 4
        assert server.addresses[2:] == [f"unix:{path}" for path in paths]
        assert all(map(is_live, server.addresses))
        assert stat.S_ISSOCK(paths[0].stat().st_mode)
    assert not any(path.exists() for path in paths)


def test_a_socket_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with listening(f"unix:{path}") as server:
        assert is_live(server.address)


def test_a_socket_of_a_server_that_runs_is_left_to_it(tmp_path: Path) -> None:
    with listening(f"unix:{tmp_path}/it.sock") as first:
        with (
            pytest.raises(PortError, match=r"cannot listen on unix:.*it\.sock: another process does"),
            listening(first.address),
        ):
            pytest.fail("two servers at one socket")
        assert is_live(first.address)


@pytest.mark.parametrize("again", ["{path}", "{folder}/./it.sock"])
def test_a_socket_that_is_given_twice_is_told(tmp_path: Path, again: str) -> None:
    path = tmp_path / "it.sock"
    with (
        pytest.raises(PortError, match=r"it\.sock: it is given twice"),
        listening(f"unix:{path}", "unix:" + again.format(path=path, folder=tmp_path)),
    ):
        pytest.fail("it listens")


def test_a_socket_is_removed_from_wherever_the_process_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with listening("unix:it.sock"):
        monkeypatch.chdir("/")
    assert not (tmp_path / "it.sock").exists()


@pytest.mark.parametrize("kind", ["file", "link to a file", "folder"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case _:
            (tmp_path / "precious").write_text("precious")
            path.symlink_to(tmp_path / "precious")
    told = "there is a file that is no socket"
    with pytest.raises(PortError, match=told), listening(f"unix:{path}"):
        pytest.fail("it listens")
    assert path.is_dir() or path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(PortError, match="no such file or directory"),
        listening(f"unix:{tmp_path}/none/it.sock"),
    ):
        pytest.fail("it listens")


def test_a_taken_port_among_several_addresses_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(PortError, match=f"cannot listen on {address}: the port is taken; --grpc-port or"),
            listening("127.0.0.1:0", address),
        ):
            pytest.fail("it listens")
