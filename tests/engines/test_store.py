from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace_engines import store
from headrace_engines.errors import GateError, ModelFileError
from headrace_engines.manifest import Manifest
from headrace_engines.report import Report
from headrace_engines.store import Wanted

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


def _find_or_make(
    folder: Path, maker: Callable[[Path], None], key: str = _KEY, **further: Any
) -> tuple[store.Entry, bool]:
    wanted = Wanted(**{"key": key, "machine": _KEY, "make": maker, "measure": _not_asked, **further})
    with store.find_or_make(folder, wanted, lambda: pytest.fail("nobody else is here")) as found:
        return found


def _no_links(link: Path, file: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def _not_asked(folder: Path, described: Manifest, known: Report) -> None:
    pytest.fail("another machine's build was measured")


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


@pytest.mark.parametrize("has_links", [True, False])
def test_another_machine_measures_what_one_has_made(
    tmp_path: Path, maker: _Maker, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    made, _ = _find_or_make(tmp_path, maker)

    def measure(folder: Path, described: Manifest, known: Report) -> None:
        assert (described, known) == (made.manifest, made.report)
        assert {path.name for path in folder.iterdir()} == {
            "manifest.json",
            *(artefact.file for artefact in described.artefacts),
        }
        here = replace(known, machine={"processor": "another"})
        (folder / "report.json").write_bytes(here.to_bytes())

    elsewhere: dict[str, Any] = {"machine": "1" * 64, "measure": measure}
    found, was_there = _find_or_make(tmp_path, maker, **elsewhere)
    assert (was_there, maker.times) == (True, 1)
    assert found.manifest == made.manifest
    assert found.report.machine == {"processor": "another"}
    # From now on, each machine finds its own.
    elsewhere["measure"] = _not_asked
    assert _find_or_make(tmp_path, maker, **elsewhere)[0] == found
    assert _find_or_make(tmp_path, maker)[0] == made
    assert {single.damage for single in store.stored(tmp_path, verifying=True)} == {""}


@pytest.mark.parametrize("machine", [_KEY, "1" * 64], ids=["this", "another"])
def test_what_would_not_be_made_again_so_is_made_anew(tmp_path: Path, maker: _Maker, machine: str) -> None:
    _find_or_make(tmp_path, maker)
    asked = []

    def is_same(described: Manifest) -> bool:
        asked.append(described)
        return False

    made, was_there = _find_or_make(tmp_path, maker, machine=machine, is_same=is_same)
    assert (was_there, maker.times) == (False, 2)
    assert asked[0] == made.manifest


def test_a_failure_leaves_what_was_there_as_it_was(tmp_path: Path, maker: _Maker) -> None:
    made, _ = _find_or_make(tmp_path, maker)

    def refused(folder: Path) -> None:
        (folder / "model.onnx").write_text("half")
        raise GateError("not good enough")

    with pytest.raises(GateError, match="not good enough"):
        _find_or_make(tmp_path, refused, is_same=lambda described: False)
    assert _find_or_make(tmp_path, maker) == (made, True)


def test_what_is_used_is_not_changed_meanwhile(tmp_path: Path, maker: _Maker) -> None:
    wanted = Wanted(_KEY, _KEY, maker, _not_asked)
    waited = threading.Event()
    went_on = []

    def take_away() -> None:
        store.prune(tmp_path, time.time() + 60, waited.set)
        went_on.append(True)

    other = threading.Thread(target=take_away)
    with store.find_or_make(tmp_path, wanted, lambda: None) as (entry, _):
        other.start()
        assert waited.wait(60)
        assert not went_on
        assert store.read(entry.folder) == entry
    other.join()
    assert list(tmp_path.iterdir()) == []
