"""Setting up tells in one line what is missing, and is not taken as done before it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def set_up(folder: Path, python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "tools" / "venv.sh"), str(folder / "venv"), str(folder / "stamp"), "nothing"],
        env={"PYTHON": python, "PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def interpreter(folder: Path, version: str, *, is_old: bool = False, has_venv: bool = True) -> str:
    """A program that answers like a Python of this version to what a set-up asks one."""
    program = folder / "python"
    program.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        f"  *platform*) echo {version} ;;\n"
        f"  *version_info*) exit {int(is_old)} ;;\n"
        f"  *ensurepip*) exit {int(not has_venv)} ;;\n"
        "  *) exit 1 ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    return str(program)


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    done = set_up(tmp_path, "python9.9")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no python9.9 here; install Python 3.11 or newer" in line


def test_an_interpreter_that_is_too_old(tmp_path: Path) -> None:
    done = set_up(tmp_path, interpreter(tmp_path, "3.9.2", is_old=True))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "is Python 3.9.2, and 3.11 or newer is needed" in line
    assert "make PYTHON=" in line


def test_an_interpreter_that_does_not_start(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'a shim has much to say' >&2\nexit 127\n")
    program.chmod(0o755)
    done = set_up(tmp_path, str(program))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"setup: {program} does not start; name another")


def test_a_make_variable_that_names_nothing_is_told_in_one_line() -> None:
    done = subprocess.run(
        ["make", "PYTHON=python9.9", "--dry-run", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_an_index_that_cannot_be_reached(tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": "/dev/null"}
    done = set_up(tmp_path, sys.executable, **nowhere)
    assert done.returncode == 1
    *progress, last = done.stderr.splitlines()
    assert last.startswith("setup: the package index could not be reached; look at the network")
    assert all(line.startswith("setup: ") for line in progress)
    assert not (tmp_path / "stamp").exists()


def test_an_interpreter_without_venv(tmp_path: Path) -> None:
    done = set_up(tmp_path, interpreter(tmp_path, "3.12.4", has_venv=False))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("sudo apt-get install python3.12-venv")


@pytest.mark.parametrize("left", ["nothing", "half an environment"])
def test_what_failed_is_not_taken_as_done(left: str, tmp_path: Path) -> None:
    if left != "nothing":
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        (tmp_path / "venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "venv" / "bin" / "python").chmod(0o755)
    done = set_up(tmp_path, interpreter(tmp_path, "3.12.4"))
    assert done.returncode == 1
    assert "could not make" in done.stderr
    assert not (tmp_path / "stamp").exists()
