"""The servers that the rows are put to: real processes of our own, or whatever --target names.

    pytest tests/conformance --target 127.0.0.1:8001 --closed-target 127.0.0.1:8011

The target is a server over what write_repository.py writes, started with the flags that it prints; so is
the closed target, with --closed. Rows for a target that is not named are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from oip.case import Server  # found by the path above
from oip.wire import Wire
from server_process import ServerProcess
from write_repository import write

from headrace_proto.names import TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb


class WireTo(Protocol):
    """Returns the connection to a server, on which it is called by one of the service's names."""

    def __call__(self, server: Server, service: str = TRITON_SERVICE) -> Wire: ...


_OPTIONS = {Server.OPEN: "--target", Server.CLOSED: "--closed-target"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--target", metavar="HOST:PORT", help="put the conformance rows to this server")
    parser.addoption("--closed-target", metavar="HOST:PORT", help="and those about refusals to this one")


@pytest.fixture(scope="session")
def wire_to(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireTo]:
    """Return the connection to each server; ours are started when they are first asked for."""
    named = dict.fromkeys(Server, None) | {
        server: pytestconfig.getoption(option, None) for server, option in _OPTIONS.items()
    }
    with ExitStack() as stack:

        @cache
        def address_of(server: Server) -> str:
            return named[server] or _start(server, stack, tmp_path_factory)

        @cache
        def wire(server: Server, service: str) -> Wire:
            wire = Wire(address_of(server), service)
            stack.callback(wire.close)
            return wire

        def wire_or_skip(server: Server, service: str = TRITON_SERVICE) -> Wire:
            if any(named.values()) and not named[server]:
                pytest.skip(f"no server is named that is {server.name.lower()}")
            return wire(server, service)

        yield wire_or_skip


@pytest.fixture(scope="session")
def is_ours(wire_to: WireTo) -> bool:
    """Whether the rows are put to Headrace, whose words and differences they know."""
    metadata = wire_to(Server.OPEN).call("ServerMetadata", pb.ServerMetadataRequest()).answer
    return bool(metadata.name == "headrace")


def _start(server: Server, stack: ExitStack, folders: pytest.TempPathFactory) -> str:
    folder = folders.mktemp("conformance")
    flags = write(folder, server)[1:]  # the first names the folder
    process = stack.enter_context(ServerProcess(folder, "--metrics-port", "0", *flags))
    try:
        return str(process.ready()["grpc"])
    except AssertionError as error:
        pytest.exit(str(error), returncode=1)  # else every row would start it again, and fail
