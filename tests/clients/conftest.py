"""One server of our own for all clients that others wrote, over the models of the conformance suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from oip.case import Server  # found by the path above
from server_process import ServerProcess
from write_repository import write


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server listens that allows everything."""
    folder = tmp_path_factory.mktemp("clients")
    flags = write(folder, Server.OPEN)[1:]  # the first names the folder
    with ServerProcess(folder, "--metrics-port", "0", *flags) as process:
        yield str(process.ready()["grpc"])
