"""Fetching a client tells what is missing, and leaves nothing half done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

INSTALLER = Path(__file__).parents[2] / "tools" / "install-client.sh"
NOWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}


def fetch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [INSTALLER, *arguments],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", **NOWHERE},
        capture_output=True,
        text=True,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["perf_analyzer", "grpcurl"])
def test_one_that_is_not_there_is_only_looked_for(name: str, tmp_path: Path) -> None:
    told = last_line(fetch("--present", name, tmp_path))
    assert told == f"install-client: there is no {name} here; `make clients` fetches one"


@pytest.mark.parametrize("name", ["perf_analyzer", "grpcurl"])
def test_an_index_that_cannot_be_reached(name: str, tmp_path: Path) -> None:
    assert last_line(fetch(name, tmp_path)).startswith("install-client: pip could not download it")
    assert not list(tmp_path.iterdir())


def test_one_that_does_not_run_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "grpcurl").mkdir()
    (tmp_path / "grpcurl" / "run").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "grpcurl" / "run").chmod(0o755)
    assert "there is no grpcurl here" in last_line(fetch("--present", "grpcurl", tmp_path))


def test_a_name_that_nobody_knows() -> None:
    assert fetch("curl").returncode == 1
