from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from headrace_engines import store
from headrace_engines.errors import FolderError
from headrace_engines.gates import Speed
from headrace_engines.manifest import Recipe
from headrace_engines.publication import publish
from headrace_engines.store import Entry

from .conftest import BuiltDigits


@pytest.fixture
def entry(built_digits: BuiltDigits) -> Entry:
    return store.read(built_digits.result.folder)


@pytest.fixture
def other_entry(entry: Entry, tmp_path_factory: pytest.TempPathFactory) -> Entry:
    """Return the same artefacts as another source would have described them."""
    folder = tmp_path_factory.mktemp("other") / "entry"
    shutil.copytree(entry.folder, folder)
    other = replace(entry.manifest, source=Recipe("other", {}))
    (folder / "manifest.json").write_bytes(other.to_bytes())
    return store.read(folder)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_version_is_1(tmp_path: Path, entry: Entry) -> None:
    folder, is_new = publish(entry, tmp_path / "models", "digits")
    assert (folder, is_new) == (tmp_path / "models" / "digits" / "1", True)
    assert _tree(folder) == _tree(entry.folder)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["digits"]


def test_the_same_again_changes_nothing(tmp_path: Path, entry: Entry) -> None:
    publish(entry, tmp_path, "digits")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert publish(entry, tmp_path, "digits") == (tmp_path / "digits" / "1", False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("processor", "ratio", "is_new"), [("another", 0.5, True), ("another", 3.0, False), (None, 0.5, False)]
)
def test_what_another_machine_measured_is_another_version_where_it_serves_otherwise(
    tmp_path: Path, entry: Entry, processor: str | None, ratio: float, is_new: bool
) -> None:
    publish(entry, tmp_path / "models", "digits")
    folder = tmp_path / "entry"
    shutil.copytree(entry.folder, folder)
    (compared,) = entry.report.comparisons
    compared = replace(compared, passed=ratio > 1, speeds=(Speed(1, ratio, 1.0),))
    machine = entry.report.machine | ({"processor": processor} if processor else {})
    other = replace(entry.report, comparisons=(compared,), machine=machine)
    (folder / "report.json").write_bytes(other.to_bytes())
    assert publish(store.read(folder), tmp_path / "models", "digits")[1] == is_new


def test_something_else_is_the_next_version(tmp_path: Path, entry: Entry, other_entry: Entry) -> None:
    first, _ = publish(entry, tmp_path, "digits")
    before = _tree(first)
    assert publish(other_entry, tmp_path, "digits") == (tmp_path / "digits" / "2", True)
    assert _tree(first) == before
    # What was once version 1 is no longer the newest, so it is published anew.
    assert publish(entry, tmp_path, "digits") == (tmp_path / "digits" / "3", True)


def test_a_damaged_version_is_left_and_followed_by_a_whole_one(tmp_path: Path, entry: Entry) -> None:
    first, _ = publish(entry, tmp_path, "digits")
    (first / "model.onnx").write_bytes(b"damaged")
    assert publish(entry, tmp_path, "digits") == (tmp_path / "digits" / "2", True)
    assert (first / "model.onnx").read_bytes() == b"damaged"


def test_versions_that_people_put_there_are_kept(tmp_path: Path, entry: Entry) -> None:
    model = tmp_path / "digits"
    for name in ("7", "009", "1a", "latest"):
        (model / name).mkdir(parents=True)
    (model / "12").write_text("a file is no version")
    (model / "config.pbtxt").write_text("")
    assert publish(entry, tmp_path, "digits") == (model / "8", True)
    assert list((model / "7").iterdir()) == []


def test_an_empty_model_folder_gets_version_1(tmp_path: Path, entry: Entry) -> None:
    (tmp_path / "digits").mkdir()
    assert publish(entry, tmp_path, "digits") == (tmp_path / "digits" / "1", True)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../up", "a\\b", "a\0b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, entry: Entry, name: str) -> None:
    with pytest.raises(ValueError, match="expected the name of a folder"):
        publish(entry, tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_left_alone(tmp_path: Path, entry: Entry) -> None:
    (tmp_path / "digits").write_text("mine")
    with pytest.raises(FolderError, match="not a directory"):
        publish(entry, tmp_path, "digits")
    assert (tmp_path / "digits").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
