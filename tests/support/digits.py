"""The digits model, built once for all tests, and a server process that serves it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace_cli.main import run

RECIPE = "int8-cpu"
_ROOT = Path(__file__).parents[2]
PACKAGES = [str(_ROOT / container) for container in ("proto", "engines", "server", "client")]


@dataclass(frozen=True)
class BuiltRepository:
    """A model repository with the model `digits`, and the cache that it was built in."""

    folder: Path
    cache: Path


def headrace(*arguments: str) -> list[str]:
    """The command in a process of its own, of the packages that are tested, as a terminal would start it."""
    program = (
        f"import signal, sys; sys.path[:0] = {PACKAGES!r}; "
        # A job in the background of a script is born deaf to Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from headrace_cli.main import main; main()"
    )
    return [sys.executable, "-c", program, *arguments]


@pytest.fixture(scope="session")
def digits_repository(tmp_path_factory: pytest.TempPathFactory) -> BuiltRepository:
    folder = tmp_path_factory.mktemp("digits")
    built = BuiltRepository(folder / "models", folder / "caches")
    arguments = ["build", "digits", "--recipe", RECIPE, "--into", str(built.folder)]
    assert run([*arguments, "--cache", str(built.cache)]) == 0
    return built


@pytest.fixture(scope="session")
def digits_server(
    digits_repository: BuiltRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server process that serves the digits."""
    folder = tmp_path_factory.mktemp("server")
    flags = (
        "--model-control-mode",
        "explicit",
        "--load-model",
        "digits",
        "--trace-file",
        str(folder / "trace.json"),
        "--allow-client-shm",
    )
    with serving(digits_repository.folder, folder, flags) as address:
        yield address


@contextmanager
def serving(repository: Path, folder: Path, flags: Sequence[str] = ()) -> Iterator[str]:
    """Run `headrace serve` until the block is left, give its address, and see that it stops cleanly."""
    log = folder / "server.log"
    ports = ("--grpc-port", "0", "--metrics-port", "0")
    arguments = headrace("serve", "--model-repository", str(repository), *ports, *flags)
    with log.open("wb") as file, subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=file) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield json.loads(line)["grpc"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()
