from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from digits import BuiltRepository

from headrace_cli.main import run


@pytest.fixture
def cache(digits_repository: BuiltRepository, tmp_path: Path) -> Path:
    """A cache of one's own, with one build in it."""
    shutil.copytree(digits_repository.cache, tmp_path / "caches")
    return tmp_path / "caches"


def _build(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "headrace").iterdir() if len(path.name) == 64)
    return folder


def test_builds_are_listed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "list", "--cache", str(cache)]) == 0
    shown = capsys.readouterr().out
    assert _build(cache).name[:12] in shown
    assert "fp32, int8-cpu" in shown
    assert "1 builds, " in shown
    assert run(["store", "list", "--cache", str(cache), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["source"], told["artefacts"], told["damage"]) == ("digits", ["fp32", "int8-cpu"], None)


def test_damage_is_found_and_removed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "verify", "--cache", str(cache)]) == 0
    assert "are whole" in capsys.readouterr().out
    with (_build(cache) / "model.int8-cpu.onnx").open("ab") as file:
        file.write(b"!")
    assert run(["store", "verify", "--cache", str(cache)]) == 1
    shown = capsys.readouterr()
    assert "not the file that manifest.json describes" in shown.out
    assert "1 of 1 builds" in shown.err
    assert run(["store", "prune", "--cache", str(cache)]) == 0
    assert "removed 1 builds" in capsys.readouterr().out
    assert run(["store", "verify", "--cache", str(cache)]) == 0


def test_what_was_not_used_for_long_is_removed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _build(cache)
    (cache / "headrace" / ".headrace-left").mkdir()
    os.utime(folder, (0, time.time() - 3 * 86_400))
    assert run(["store", "prune", "--cache", str(cache), "--unused-days", "4"]) == 0
    assert folder.exists()
    assert not (cache / "headrace" / ".headrace-left").exists(), "what a killed build left is kept"
    assert run(["store", "prune", "--cache", str(cache), "--unused-days", "2"]) == 0
    assert not folder.exists()
    assert "removed 0 builds" in capsys.readouterr().out


def test_a_build_that_uses_it_keeps_it(cache: Path, tmp_path: Path) -> None:
    folder = _build(cache)
    os.utime(folder, (0, 0))
    arguments = ["build", "digits", "--recipe", "int8-cpu", "--into", str(tmp_path / "models")]
    assert run([*arguments, "--cache", str(cache)]) == 0
    assert run(["store", "prune", "--cache", str(cache)]) == 0
    assert folder.exists()


def test_a_store_that_is_not_there_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "verify", "prune"):
        assert run(["store", command, "--cache", str(tmp_path / "none")]) == 0
    assert "there is nothing in" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
