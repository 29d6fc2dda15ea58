from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_engines import store
from headrace_engines.errors import GateError, ModelFileError

from .conftest import BuiltDigits

_KEY = "0" * 64


class _Maker:
    """Fills folders with the shared build and counts how often it was asked to."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        shutil.copytree(self._source, folder, dirs_exist_ok=True)


@pytest.fixture
def maker(built_digits: BuiltDigits) -> _Maker:
    return _Maker(built_digits.result.folder)


def _find_or_make(folder: Path, maker: Callable[[Path], None], key: str = _KEY) -> tuple[store.Entry, bool]:
    return store.find_or_make(folder, key, maker, lambda: pytest.fail("nobody else is here"))


def test_an_entry_is_made_once(tmp_path: Path, maker: _Maker, built_digits: BuiltDigits) -> None:
    made, was_there = _find_or_make(tmp_path, maker)
    found, is_there = _find_or_make(tmp_path, maker)
    assert (was_there, is_there, maker.times) == (False, True, 1)
    assert made == found
    assert found.folder == tmp_path / _KEY
    assert found.manifest == built_digits.result.manifest
    assert found.report == built_digits.result.report


def test_another_key_is_another_entry(tmp_path: Path, maker: _Maker) -> None:
    _find_or_make(tmp_path, maker)
    assert not _find_or_make(tmp_path, maker, "1" * 64)[1]
    assert maker.times == 2


def _flip_a_byte(folder: Path) -> None:
    file = folder / "model.int8-cpu.onnx"
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_byte,
        lambda folder: (folder / "model.onnx").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "report.json").write_text("[]"),
        lambda folder: (folder / "report.json").unlink(),
    ],
    ids=["flipped", "no-model", "no-manifest", "cut-manifest", "other-report", "no-report"],
)
def test_a_damaged_entry_is_made_again(
    tmp_path: Path, maker: _Maker, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    _find_or_make(tmp_path, maker)
    damage(tmp_path / _KEY)
    with pytest.raises(ModelFileError):
        store.read(tmp_path / _KEY)
    with caplog.at_level(logging.WARNING):
        _, was_there = _find_or_make(tmp_path, maker)
    assert (was_there, maker.times) == (False, 2)
    assert "is damaged and made again" in caplog.text
    assert _find_or_make(tmp_path, maker)[1]


def test_a_failure_leaves_no_entry(tmp_path: Path, maker: _Maker) -> None:
    def refused(folder: Path) -> None:
        (folder / "model.onnx").write_text("half")
        raise GateError("not good enough")

    with pytest.raises(GateError, match="not good enough"):
        _find_or_make(tmp_path, refused)
    assert list(tmp_path.iterdir()) == []
    assert not _find_or_make(tmp_path, maker)[1]
