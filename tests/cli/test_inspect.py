from __future__ import annotations

import json
from pathlib import Path

import pytest
from digits import BuiltRepository
from fake_cuda import FakeDriver, present
from fake_machine import machine_with, plan_name, write_version
from onnx_models import Models

from headrace_cli.main import run


@pytest.mark.parametrize("place", ["digits", "digits/1"])
def test_a_built_version_tells_all_about_itself(
    digits_repository: BuiltRepository, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(digits_repository.folder / place), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(digits_repository.folder / "digits" / "1")
    assert told["inputs"] == [{"name": "image", "datatype": "FP32", "dims": [64]}]
    assert told["outputs"] == [{"name": "probabilities", "datatype": "FP32", "dims": [10]}]
    assert told["served"] == "model.int8-cpu.onnx"
    assert told["max_batch_size"] == 64
    assert [artefact["recipe"] for artefact in told["artefacts"]] == ["fp32", "int8-cpu"]
    assert told["network"]["parameters"] == 301_130
    assert [layer["operator"] for layer in told["network"]["layers"]].count("Gemm") == 3
    assert told["built"]["gates"]["metric"] == "accuracy"
    assert told["built"]["source"]["name"] == "digits"
    (comparison,) = told["comparisons"]
    assert comparison["quality"]["reference"] > 0.95


def test_a_built_version_is_shown(
    digits_repository: BuiltRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(digits_repository.folder / "digits")]) == 0
    shown = capsys.readouterr().out
    for text in (
        "probabilities",
        "model.int8-cpu.onnx: chosen",
        "up to 64 rows",
        "Loss, points",
        "Times faster",
        "301,130 parameters",
        "metric accuracy",
    ):
        assert text in shown


def test_a_file_and_a_folder_that_nobody_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Models(tmp_path).mlp()
    assert run(["inspect", str(model), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["inputs"][0]["dims"], told["artefacts"], told["built"]) == ([4], [], None)
    assert told["network"]["parameters"] == 4 * 8 + 8 + 8 * 3 + 3
    version = tmp_path / "mine" / "1"
    version.mkdir(parents=True)
    model.rename(version / "model.onnx")
    assert run(["inspect", str(tmp_path / "mine")]) == 0
    assert "model.onnx: chosen: the only model" in capsys.readouterr().out


def test_a_plan_is_seen_on_a_gpu(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_version(tmp_path, models.adding(1)) / plan_name("model.onnx")
    with present():
        assert run(["inspect", str(plan)]) == 1
    said = capsys.readouterr().err
    assert "a plan is seen on a GPU alone: none was found (CUDA shows none)" in said
    assert "it is whole, its SHA-256 that of manifest.json" in said
    with FakeDriver() as driver, machine_with(driver) as machine:
        monkeypatch.setattr("headrace_engines.machine.THIS_MACHINE", machine)
        assert run(["inspect", str(plan), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["platform"], told["max_batch_size"]) == ("tensorrt_plan", 64)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("made", b"flipped", "not the file that manifest.json describes: its SHA-256 is"),
        ("made", b"", "empty"),
        ("other.plan", b"", "empty"),
        ("other.plan", b"something", "no manifest tells of it"),
    ],
)
def test_a_plan_is_compared_with_its_manifest_without_a_gpu(
    name: str,
    content: bytes,
    said: str,
    models: Models,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = write_version(tmp_path, models.adding(1))
    plan = version / (plan_name("model.onnx") if name == "made" else name)
    plan.write_bytes(content)
    with present():
        assert run(["inspect", str(plan)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", [{}, {"readme.txt": b""}, {"model.onnx": b"broken"}])
def test_what_is_no_model_is_told(
    content: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    assert run(["inspect", str(tmp_path)]) == 1
    assert "model.onnx" in capsys.readouterr().err
