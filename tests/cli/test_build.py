from __future__ import annotations

from pathlib import Path

import pytest
from digits import RECIPE, BuiltRepository

from headrace_cli.main import run


def test_a_build_shows_what_it_made(
    digits_repository: BuiltRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    arguments = ["build", "digits", "--recipe", RECIPE, "--name", "mine", "--into", str(repository)]
    assert run([*arguments, "--cache", str(digits_repository.cache)]) == 0
    shown = capsys.readouterr()
    for text in ("int8-cpu", "as good as FP32", "95 % interval", "Times faster", "fp32: accuracy 0.97"):
        assert text in shown.out
    assert f"found in the cache, put into {repository}/mine/1" in shown.out
    assert f"next: headrace serve --model-repository {repository}" in shown.out
    assert "100% done" in shown.err
    assert run([*arguments, "--cache", str(digits_repository.cache)]) == 0
    assert f"already the newest version: {repository}/mine/1" in capsys.readouterr().out


def test_the_cache_is_where_the_environment_says(
    digits_repository: BuiltRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(digits_repository.cache))
    assert run(["build", "digits", "--recipe", RECIPE, "--into", str(tmp_path)]) == 0
    assert "found in the cache" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_told(
    digits_repository: BuiltRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "file"
    taken.write_text("in the way")
    arguments = ["build", "digits", "--cache", str(digits_repository.cache), "--into", str(taken / "models")]
    assert run(arguments) == 1
    told = capsys.readouterr().err
    assert told.endswith(f"headrace: error: {taken}/models cannot be written: not a directory\n")
    assert "%" not in told, "the work began"
    assert run(["build", "digits", "--cache", str(taken / "caches"), "--into", str(tmp_path / "models")]) == 1
    assert f"{taken}/caches/headrace cannot be written: not a directory" in capsys.readouterr().err


def test_a_demo_that_may_not_write_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "file"
    taken.write_text("in the way")
    assert run(["demo", "--exit", "--cache", str(taken / "caches")]) == 1
    told = capsys.readouterr().err
    assert told == f"headrace: error: {taken}/caches/headrace/demo cannot be written: not a directory\n"


def test_an_empty_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", "digits", "--name", "", "--into", str(tmp_path)]) == 2
    assert "model name '': expected the name of a folder" in capsys.readouterr().err
