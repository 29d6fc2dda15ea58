from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from digits import BuiltRepository

from headrace_cli.main import run
from headrace_engines.plan_gate import Likeness
from headrace_engines.plan_order import PlanOrder
from headrace_engines.plans.nvidia import Library
from headrace_engines.plans.settings import PlanSettings
from headrace_engines.rebuilt_plans import RebuiltPlans
from headrace_engines.runtime.cuda.driver import GpuFacts


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


def test_plans_that_a_server_has_rebuilt_are_listed_and_removed_as_builds_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = GpuFacts(0, "Some GPU", "GPU-0", (9, 0), 1 << 30, 13000)
    library = Library("tensorrt_rtx", "1.8")
    order = PlanOrder(Path("model.fp16.onnx"), "0" * 64, "fp16", PlanSettings(), library, gpu)

    def make(into: Path) -> Likeness:
        into.write_bytes(b"plan")
        return Likeness(64, 50.0, 1.0)

    kept = RebuiltPlans(tmp_path / "headrace" / "plans").find_or_make(order, make, lambda: None)
    assert run(["store", "list", "--cache", str(tmp_path)]) == 0
    assert "0 builds and 1 rebuilt plans, " in capsys.readouterr().out
    assert run(["store", "list", "--cache", str(tmp_path), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["source"]) == ("plan", "model.fp16.onnx for Some GPU")
    assert told["artefacts"] == ["model.fp16.any-rtx1.8.plan"]
    kept.path.write_bytes(b"else")
    assert run(["store", "verify", "--cache", str(tmp_path)]) == 1
    assert "1 of 0 builds and 1 rebuilt plans in" in capsys.readouterr().err
    assert run(["store", "prune", "--cache", str(tmp_path)]) == 0
    assert "removed 0 builds and 1 rebuilt plans" in capsys.readouterr().out
    assert not kept.folder.exists()
