from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace_engines import files
from headrace_engines.errors import ModelFileError


def test_a_file_that_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    files.check(tmp_path / "file")
    files.check(tmp_path / "link")


def test_what_cannot_be_read_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ModelFileError, match=r"^circle: cannot be read: too many levels of symbolic links$"):
        files.check(tmp_path / "circle")
    with pytest.raises(ModelFileError, match=r"^absent: no such file$"):
        files.check(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"12345", "file: larger than 4 bytes"),
        (b"a\n\xff", "file: no UTF-8 text: invalid start byte in line 2"),
    ],
)
def test_what_is_no_text_or_too_large_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ModelFileError) as refused:
        files.text(tmp_path / "file", 4)
    assert str(refused.value) == told


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfname")
    assert files.text(tmp_path / "file", 10) == "name"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match=r"^pipe: not a regular file$"):
        files.check(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied"), "file: cannot be read: permission denied"),
        (OSError("without a number"), "file: cannot be read: without a number"),
    ],
)
def test_the_systems_reason_is_told(error: OSError, told: str) -> None:
    assert str(files.unreadable(Path("/folder/file"), error)) == told
