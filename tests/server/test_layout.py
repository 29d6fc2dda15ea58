from __future__ import annotations

from pathlib import Path

import pytest

from headrace_server.models.layout import RepositoryError, is_version, scan


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_the_newest_version_of_each_model_by_number(tmp_path: Path) -> None:
    folders(tmp_path, "b/1", "a/2", "a/10", "a/9", "a/010", "a/draft", "a/-3", ".hidden/1")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "a" / "11").touch()
    found = scan(tmp_path)
    assert [(one.name, one.version, one.folder, one.problem) for one in found] == [
        ("a", "10", tmp_path / "a" / "10", ""),
        ("b", "1", tmp_path / "b" / "1", ""),
    ]


def test_a_model_without_a_version_tells_what_was_expected(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b/1", "c/v1")
    assert {one.name: one.problem for one in scan(tmp_path)} == {
        "a": f"{tmp_path / 'a'} has no version: a folder named 1, 2, … is expected",
        "b": "",
        "c": f"{tmp_path / 'c'} has no version: a folder named 1, 2, … is expected",
    }


def test_a_config_that_would_not_be_honoured_is_told(tmp_path: Path) -> None:
    folders(tmp_path, "a/1")
    (tmp_path / "a" / "config.pbtxt").touch()
    (found,) = scan(tmp_path)
    assert found.problem.startswith("config.pbtxt is not supported")


def test_a_repository_that_is_missing_empty_or_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path / "none", file):
        with pytest.raises(RepositoryError, match=f"there is no model repository at {path}"):
            scan(path)
    with pytest.raises(RepositoryError, match=r"is empty: MODEL/VERSION/model.onnx is expected"):
        scan(tmp_path)


@pytest.mark.parametrize("text", ["1", "10", "99999999999999999999"])
def test_versions(text: str) -> None:
    assert is_version(text)


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "1x", "1.0", " 1", "¹", "١", "latest"])
def test_what_is_no_version(text: str) -> None:
    assert not is_version(text)
