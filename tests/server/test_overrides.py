from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace_server.errors import InvalidInput, Overloaded
from headrace_server.models.overrides import Upload


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "files",
    [{"1/a": b"", "1/a/b": b""}, {"1/" + "a" * 300: b""}],
    ids=["a file in a file", "a name that is too long"],
)
def test_files_whose_names_do_not_go_together_are_the_callers_fault(
    temporary: Path, files: dict[str, bytes]
) -> None:
    with pytest.raises(InvalidInput, match="cannot stand beside each other"):
        Upload(files)
    assert list(temporary.iterdir()) == []


@contextmanager
def small_files() -> Iterator[None]:
    """No file may be larger than ten bytes: what a full disk says in other words.

    It ends with the block, since what pytest itself writes may go to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_that_do_not_fit_are_the_servers_trouble(temporary: Path) -> None:
    with pytest.raises(Overloaded) as refused, small_files():
        Upload({"1/model.onnx": bytes(11)})
    assert str(refused.value) == f"the server cannot keep the model's files in {temporary}: file too large"
    assert list(temporary.iterdir()) == []


def test_a_missing_folder_of_temporary_files_is_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    with pytest.raises(Overloaded, match=f"in {temporary}/gone: no such file or directory"):
        Upload({"1/model.onnx": b""})
