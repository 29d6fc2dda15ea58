"""Nothing that is run tells anybody about itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from digits import PACKAGES, BuiltRepository, headrace, serving
from onnx_models import Models


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for the children, in which nothing was decided about telemetry."""
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    return tmp_path


def test_inspecting_and_building_collect_no_telemetry(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    model = Models(elsewhere).mlp()
    subprocess.check_call(headrace("inspect", str(model)), stdout=subprocess.DEVNULL)
    into = ("--into", str(elsewhere / "models"), "--cache", str(elsewhere / "cache"))
    assert list(home.iterdir()) == []
    subprocess.check_call(headrace("build", "digits", *into), stdout=subprocess.DEVNULL)
    assert {entry.name for entry in home.iterdir()} <= {"matplotlib"}  # which fonts there are


def test_serving_collects_no_telemetry(
    digits_repository: BuiltRepository, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(digits_repository.folder, tmp_path_factory.mktemp("server")):
        pass
    assert list(home.iterdir()) == []


def test_who_sets_the_variable_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    program = f"import sys; sys.path[:0] = {PACKAGES!r}; import os, headrace_engines; "
    program += "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "0\n"
