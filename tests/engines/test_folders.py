from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace_engines import folders
from headrace_engines.errors import FolderError

_HOLD = f"""
import sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from headrace_engines import folders
with folders.locked(Path(sys.argv[1])), folders.staged(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("written")
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds the folder, with something unfinished in it, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    waits, entered = threading.Event(), threading.Event()

    def enter() -> None:
        with folders.locked(tmp_path, waits.set):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert waits.wait(10)
    assert not entered.is_set()
    assert len(list(tmp_path.iterdir())) == 1
    process.communicate("")
    assert entered.wait(10)
    thread.join()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    process.kill()
    process.communicate()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    (tmp_path / "model").mkdir()
    with folders.locked(tmp_path, lambda: pytest.fail("a dead process cannot hold it")):
        assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_folder_is_made_for_its_first_holder(tmp_path: Path) -> None:
    with folders.locked(tmp_path / "new" / "store"):
        assert list((tmp_path / "new" / "store").iterdir()) == []


def test_a_failure_leaves_nothing_staged(tmp_path: Path) -> None:
    def fail() -> None:
        with folders.staged(tmp_path) as staging:
            (staging / "file").write_text("half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_was_renamed_stays(tmp_path: Path) -> None:
    with folders.staged(tmp_path) as staging:
        (staging / "file").write_text("whole")
        folders.sync(staging)
        staging.rename(tmp_path / "done")
    assert (tmp_path / "done" / "file").read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["done"]


def test_others_may_read_what_was_staged(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    with folders.staged(tmp_path) as staging:
        assert staging.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_whether_a_folder_can_be_written_is_known_without_making_it(tmp_path: Path) -> None:
    folders.check_writable(tmp_path / "new" / "models")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=rf"^{tmp_path}/file/models cannot be written: not a directory$"):
        folders.check_writable(tmp_path / "file" / "models")
    with pytest.raises(FolderError, match=r"^/proc/x cannot be written: "):
        folders.check_writable(Path("/proc/x"))


def test_a_full_disk_is_told_with_the_folder_that_was_asked_for() -> None:
    told = r"^models cannot be written: no space left on device: .* bytes free, and 9 bytes are needed$"
    with (
        pytest.raises(FolderError, match=told),
        folders.writing(Path("models"), needed_bytes=9),
        Path("/dev/full").open("w") as full,
    ):
        full.write("model")


def test_a_reader_who_left_is_no_matter_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), folders.writing(tmp_path):
        raise BrokenPipeError
