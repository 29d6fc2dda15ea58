"""A full disk, met by the system itself where a small one may be mounted, or by its name in an error."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_engines import disk_space, folders, store
from headrace_engines.errors import FolderError
from headrace_engines.publication import publish
from headrace_engines.store import Entry

from .conftest import BuiltDigits

_SIZE_BYTES = 256 << 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_BYTES}", "tmpfs", place],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("nobody may mount a file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def entry(built_digits: BuiltDigits) -> Entry:
    return store.read(built_digits.result.folder)


def test_a_version_that_does_not_fit_is_told_with_what_it_needs(small_disk: Path, entry: Entry) -> None:
    needed = sum(file.stat().st_size for file in entry.folder.iterdir())
    assert needed > _SIZE_BYTES
    models = small_disk / "models"
    with pytest.raises(FolderError) as refused:
        publish(entry, models, "digits")
    assert str(refused.value) == (
        f"{models} cannot be written: no space left on device: the file system at {small_disk} has "
        f"{_SIZE_BYTES} bytes free, and {needed} bytes are needed"
    )
    assert list(models.iterdir()) == []


def test_of_two_disks_the_one_that_is_full_is_named(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(FolderError) as refused, folders.writing(tmp_path / "store"):
        (small_disk / "rows").write_bytes(bytes(2 * _SIZE_BYTES))
    told = f"{small_disk} cannot be written: no space left on device: the file system at {small_disk} has 0 "
    assert str(refused.value).startswith(told)
    assert str(refused.value).endswith("; TMPDIR names another place for temporary files")


def test_a_folder_is_copied_with_all_that_it_holds(tmp_path: Path) -> None:
    inner = tmp_path / "from" / "inner"
    inner.mkdir(parents=True)
    (inner / "weights").write_bytes(b"123")
    (tmp_path / "from" / "model").write_bytes(b"4")
    folders.copy(tmp_path / "from", tmp_path / "to")
    assert (tmp_path / "to" / "inner" / "weights").read_bytes() == b"123"
    assert (tmp_path / "to" / "model").read_bytes() == b"4"
    assert folders.size_bytes(tmp_path / "to") == 4


def _raised_from(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        finally:
            raise ValueError("the file could not be closed")
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (_raised_from(OSError(errno.ENOSPC, "")), True),
        (_raised_from(KeyError("x")), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_a_full_disk_is_known_by_whatever_tells_of_it(error: Exception, is_full: bool) -> None:
    assert disk_space.is_full(error) is is_full


def test_a_library_that_did_not_look_is_seen_through(tmp_path: Path) -> None:
    error = ValueError("not a model")
    disk_space.check_after(error, tmp_path, needed_bytes=1)
    with pytest.raises(OSError, match="No space left on device"):
        disk_space.check_after(error, tmp_path, needed_bytes=1 << 60)


def test_what_a_folder_is_on_is_told_before_there_is_one(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    told = disk_space.complaint(tmp_path / "new" / "models", needed_bytes=5)
    found = re.fullmatch(
        r"(.+) cannot be written: .* at (.+) has (\d+) bytes free, and 5 bytes are needed", told
    )
    assert found is not None
    assert found[1] == str(tmp_path / "new" / "models")
    assert Path(found[2]).is_mount()
    assert abs(int(found[3]) - free) < free
