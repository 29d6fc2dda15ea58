from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_server.models.scratch import ScratchFolder, remove_abandoned

_HOLDING = """
import sys
from headrace_server.models.scratch import ScratchFolder
folder = ScratchFolder()
(folder.path / "model.onnx").write_bytes(b"secret")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, of this process and its children."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """A process with a folder of its own, which it has told."""
    arguments = [sys.executable, "-c", _HOLDING]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_what_a_killed_process_left_is_removed(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    remove_abandoned()
    assert (folder / "model.onnx").exists(), "its process lives"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert folder.exists()
    remove_abandoned()
    assert not folder.exists()


def test_a_folder_that_is_held_stays_whatever_its_name_says(temporary: Path) -> None:
    mine = ScratchFolder()
    renamed = mine.path.rename(temporary / f"headrace-model-{dead_process()}-a")
    remove_abandoned()
    assert renamed.exists()
    mine.remove()
    remove_abandoned()
    assert not renamed.exists()


def test_what_is_nobodys_folder_stays(temporary: Path) -> None:
    name = f"headrace-model-{dead_process()}"
    (temporary / "elsewhere").mkdir()
    (temporary / f"{name}-link").symlink_to(temporary / "elsewhere")
    (temporary / f"{name}-file").touch()
    for other in (
        name,
        "headrace-model-9",
        "headrace-model-0-a",
        f"my-{name}-a",
        f"headrace-model-{os.getpid()}-a",
    ):
        (temporary / other).mkdir()
    there = set(temporary.iterdir())
    remove_abandoned()
    assert set(temporary.iterdir()) == there


def test_a_folder_goes_with_its_last_user() -> None:
    folder = ScratchFolder()
    path = folder.path
    assert path.stat().st_mode & 0o777 == 0o700
    del folder
    assert not path.exists()
