from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace_server.models.layout import FoundVersion, RepositoryError, is_version, read_model, scan

SECOND_NS = 1_000_000_000


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def wrote(path: Path, content: bytes = b"weights", seconds_ago: float = 0.0) -> Path:
    """Write a file as if it had been so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if seconds_ago:
        status = path.stat()
        at_ns = status.st_mtime_ns - int(seconds_ago * SECOND_NS)
        os.utime(path, ns=(at_ns, at_ns))
    return path


def version(root: Path, name: str = "m", number: int = 1) -> FoundVersion:
    return scan([root])[name].versions[number]


def test_every_version_of_every_model_by_number(tmp_path: Path) -> None:
    folders(tmp_path, "b/1", "a/2", "a/10", "a/9", "a/010", "a/draft", "a/-3", ".hidden/1", "c/v1")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "a" / "11").touch()
    found = scan([tmp_path])
    assert {name: list(model.versions) for name, model in found.items()} == {
        "a": [2, 9, 10],
        "b": [1],
        "c": [],
    }
    assert found["a"].folder == tmp_path / "a"
    assert found["a"].versions[10].folder == tmp_path / "a" / "10"
    assert not any(model.problem for model in found.values())


def test_a_repository_that_cannot_even_be_looked_at_is_told(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="nnn cannot be read: File name too long"):
        scan([tmp_path / ("n" * 300)])


def test_an_entry_that_cannot_be_looked_at_costs_the_others_nothing(tmp_path: Path) -> None:
    folders(tmp_path, "good/1")
    (tmp_path / "bad").symlink_to("n" * 300)
    found = scan([tmp_path])
    assert list(found["good"].versions) == [1]
    assert "bad cannot be read: File name too long" in found["bad"].problem


def test_several_repositories(tmp_path: Path) -> None:
    folders(tmp_path, "first/a/1", "second/b/2", "second/.cache/1")
    found = scan([tmp_path / "first", tmp_path / "second"])
    assert {name: model.folder for name, model in found.items()} == {
        "a": tmp_path / "first" / "a",
        "b": tmp_path / "second" / "b",
    }


def test_a_name_in_two_repositories_is_served_from_none(tmp_path: Path) -> None:
    folders(tmp_path, "first/a/1", "first/b/1", "second/a/2")
    found = scan([tmp_path / "first", tmp_path / "second"])
    assert not found["a"].versions
    assert str(tmp_path / "first" / "a") in found["a"].problem
    assert str(tmp_path / "second" / "a") in found["a"].problem
    assert list(found["b"].versions) == [1]


def test_a_repository_that_is_missing_or_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path / "none", file):
        with pytest.raises(RepositoryError, match=f"there is no model repository at {path}"):
            scan([tmp_path, path])


def test_a_model_folder_that_vanishes_meanwhile_has_a_problem(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in read_model("m", tmp_path / "gone").problem


def _rewritten_as_old(root: Path) -> None:
    """Write other bytes, as many, and set the time back as those tools do that keep times."""
    path = root / "m" / "1" / "model.onnx"
    before = path.stat()
    path.write_bytes(b"WEIGHTS")
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the system's clock for files ticks slowly
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


def _replaced_as_old(root: Path) -> None:
    path = root / "m" / "1" / "model.onnx"
    before = path.stat()
    wrote(root / "aside", b"WEIGHTS")
    os.utime(root / "aside", ns=(before.st_mtime_ns, before.st_mtime_ns))
    (root / "aside").rename(path)


CHANGES = {
    "rewritten with the old time": _rewritten_as_old,
    "replaced with the old time": _replaced_as_old,
    "longer": lambda root: wrote(root / "m" / "1" / "model.onnx", b"longer weights", 9),
    "later": lambda root: wrote(root / "m" / "1" / "model.onnx", seconds_ago=8),
    "more": lambda root: wrote(root / "m" / "1" / "data" / "weights.bin"),
    "less": lambda root: (root / "m" / "1" / "model.onnx").unlink(),
    "renamed": lambda root: (root / "m" / "1" / "model.onnx").rename(root / "m" / "1" / "x.onnx"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_version(tmp_path: Path, change: str) -> None:
    wrote(tmp_path / "m" / "1" / "model.onnx", seconds_ago=9)
    before = scan([tmp_path])["m"]
    CHANGES[change](tmp_path)
    after = scan([tmp_path])["m"]
    assert after.versions[1] != before.versions[1]
    assert after.stamp == before.stamp


@pytest.mark.parametrize("path", ["config.pbtxt", "labels.txt", "warmup/rows"])
def test_what_changes_a_model_and_none_of_its_versions(tmp_path: Path, path: str) -> None:
    wrote(tmp_path / "m" / "1" / "model.onnx")
    before = scan([tmp_path])["m"]
    wrote(tmp_path / "m" / path)
    after = scan([tmp_path])["m"]
    assert after.stamp != before.stamp
    assert after.versions == before.versions


@pytest.mark.parametrize(
    "path", ["1/.model.onnx.part", "1/__pycache__/model.pyc", ".2/model.onnx", "draft/model.onnx", ".config"]
)
def test_what_changes_nothing(tmp_path: Path, path: str) -> None:
    wrote(tmp_path / "m" / "1" / "model.onnx")
    before = scan([tmp_path])
    wrote(tmp_path / "m" / path)
    assert scan([tmp_path]) == before


def test_a_version_that_was_renamed_into_place_is_told_from_one_that_is_written(tmp_path: Path) -> None:
    wrote(tmp_path / "m" / "1" / "model.onnx")
    assert not version(tmp_path).stamp.was_placed
    wrote(tmp_path / "aside" / "model.onnx", seconds_ago=1)
    os.utime(tmp_path / "aside", (1, 1))  # a folder's own time is that of its last entry
    (tmp_path / "aside").rename(tmp_path / "m" / "2")
    assert version(tmp_path, number=2).stamp.was_placed
    wrote(tmp_path / "m" / "2" / "more.bin")
    assert not version(tmp_path, number=2).stamp.was_placed


def test_a_model_that_was_renamed_into_place(tmp_path: Path) -> None:
    wrote(tmp_path / ".aside" / "1" / "model.onnx", seconds_ago=1)
    wrote(tmp_path / ".aside" / "config.pbtxt", seconds_ago=1)
    for folder in (tmp_path / ".aside" / "1", tmp_path / ".aside"):
        os.utime(folder, (1, 1))
    (tmp_path / ".aside").rename(tmp_path / "m")
    assert version(tmp_path).stamp.was_placed
    assert scan([tmp_path])["m"].stamp.was_placed
    wrote(tmp_path / "m" / "2" / "model.onnx")
    assert not version(tmp_path, number=2).stamp.was_placed


def test_a_link_that_was_made_to_a_version(tmp_path: Path) -> None:
    wrote(tmp_path / "store" / "model.onnx", seconds_ago=1)
    os.utime(tmp_path / "store", (1, 1))
    folders(tmp_path, "m")
    (tmp_path / "m" / "1").symlink_to(tmp_path / "store")
    assert version(tmp_path).stamp.was_placed
    assert [name for name, *_ in version(tmp_path).stamp.files] == ["model.onnx"]


@pytest.mark.parametrize("text", ["1", "10", "9223372036854775807"])
def test_versions(text: str) -> None:
    assert is_version(text)


@pytest.mark.parametrize(
    "text", ["", "0", "01", "-1", "1x", "1.0", " 1", "¹", "١", "latest", "9223372036854775808", "9" * 23]
)
def test_what_is_no_version(text: str) -> None:
    assert not is_version(text)
