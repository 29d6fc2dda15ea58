"""One server of our own for all clients that others wrote, over the models of the conformance suite.

What no package of the development environment brings is set up by `make clients`; tests of a client that
is not there are skipped, and say why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from oip.case import Server  # found by the path above
from server_process import ServerProcess
from write_repository import write

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server listens that allows everything."""
    folder = tmp_path_factory.mktemp("clients")
    flags = write(folder, Server.OPEN)[1:]  # the first names the folder
    with ServerProcess(folder, *flags) as process:
        yield str(process.ready()["grpc"])


@pytest.fixture(scope="session")
def tell(address: str) -> Callable[[str], Any]:
    """Run a client that needs an environment of its own, and return what it told of the server."""

    def tell(client: str) -> Any:
        environment = ROOT / f".venv-{client}"
        if not (environment / ".installed").exists():
            pytest.skip(f"there is no {client} here; `make clients` installs one")
        program = ROOT / "tests" / "clients" / "programs" / f"ask_{client}.py"
        command = [environment / "bin" / "python", program, address]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        return json.loads(asked.stdout)

    return tell


@pytest.fixture(scope="session")
def perf_analyzer() -> str:
    """The path of Triton's measuring program."""
    return _program("perf_analyzer")


@pytest.fixture(scope="session")
def grpcurl() -> str:
    """The path of the command that calls by what a server tells of itself."""
    return _program("grpcurl")


def _program(name: str) -> str:
    found = subprocess.run(
        [ROOT / "tools" / "install-client.sh", "--present", name, ROOT / ".tools" / "clients"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()
