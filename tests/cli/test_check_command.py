from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hosted_server import eventually

from headrace_cli.commands import check
from headrace_cli.main import run
from headrace_server.config import OPTIONS


@pytest.fixture
def repository(models, tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "mlp" / "1"
    folder.mkdir(parents=True)
    shutil.copy(models.mlp(), folder / "model.onnx")
    return tmp_path / "models"


def test_a_good_repository_ends_with_0_and_a_table(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", str(repository)]) == 0
    shown = capsys.readouterr().out
    assert "x FP32 [4]" in shown
    assert "up to 64 rows" in shown
    assert "mlp version 1: model.onnx: chosen" in shown
    assert "problems: 0; versions that would be served: 1" in shown


def test_every_problem_is_a_line_with_its_place(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = repository / "mlp" / "config.pbtxt"
    config.write_text("max_batch: 3\n\nresponse_cache { enable: true }\n")
    assert run(["check", str(repository)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{config}:1: max_batch: there is no such field; did you mean max_batch_size?"
    assert lines[1].startswith(f"{config}:3: response_cache: is not supported; ")
    assert lines[-1] == "problems: 2; versions that would be served: 0"


def test_the_same_as_json(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "other" / "1").mkdir(parents=True)
    assert run(["check", str(repository), "--json", "--max-batch-size", "4"]) == 1
    document = json.loads(capsys.readouterr().out)
    (problem,) = document["problems"]
    assert problem["path"] == str(repository / "other" / "1")
    (servable,) = document["servable"]
    assert (servable["model"], servable["max_batch_size"]) == ("mlp", 4)
    assert servable["inputs"] == [{"name": "x", "datatype": "FP32", "dims": [4]}]


def test_without_a_folder_the_servers_own_are_checked(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_MODEL_REPOSITORY", str(repository))
    assert run(["check"]) == 0
    assert "mlp" in capsys.readouterr().out


def test_each_setting_is_shown_with_its_origin_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text("max_batch_size = 7\ngrpc_port = 1\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "geheim")
    monkeypatch.setenv("HEADRACE_HOST", "0.0.0.0")
    arguments = ["check", "--show-config", "--config", str(file), "--grpc-port", "0"]
    assert run([*arguments, "--json"]) == 0
    shown = capsys.readouterr().out
    settings = json.loads(shown)
    names = [option.name for option in OPTIONS]
    assert list(settings) == [*names, "GRPC_EXPERIMENTS", "GRPC_VERBOSITY"]
    assert settings["GRPC_EXPERIMENTS"]["value"]
    assert settings["grpc_port"] == {"value": 0, "origin": "--grpc-port"}
    assert settings["host"] == {"value": "0.0.0.0", "origin": "HEADRACE_HOST"}
    assert settings["max_batch_size"] == {"value": 7, "origin": f"max_batch_size in {file}"}
    assert settings["model_repository"] == {"value": ["models"], "origin": "default"}
    assert settings["consul_token"] == {"value": "(hidden)", "origin": "CONSUL_HTTP_TOKEN"}
    assert run(arguments) == 0
    table = capsys.readouterr().out
    assert "HEADRACE_HOST" in table
    assert "geheim" not in shown + table


@pytest.mark.parametrize("hangs", ["load", "close"])
def test_a_program_that_hangs_is_named(
    hangs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    folder = tmp_path / "models" / "stuck" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(
        "from headrace_engines.python_model import *\n"
        "class Model:\n"
        "    inputs = outputs = [Tensor('x', 'FP32', [1])]\n"
        "    def execute(self, batch): return {'x': batch['x']}\n"
        f"    def {hangs}(self, *_): open({str(pipe)!r}).read()\n"
    )
    monkeypatch.setattr(check, "_SLOW_SECONDS", 0.01)
    told: list[str] = []

    def is_named() -> bool:
        told.append(capsys.readouterr().err)
        return "stuck version 1: still loaded, executed or closed after 0.01 s" in "".join(told)

    with ThreadPoolExecutor() as threads:
        checked = threads.submit(run, ["check", str(tmp_path / "models"), "--allow-python-models"])
        try:
            eventually(is_named, "what hangs is named")
        finally:
            pipe.write_text("go on")
        assert checked.result() == 0


def test_wrong_settings_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--show-config", "--max-batch-size", "0"]) == 2
    assert "--max-batch-size: 0 is out of range" in capsys.readouterr().err
