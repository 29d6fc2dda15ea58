"""What callers cannot have executed or read that lies in a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model_folders import put
from onnx_models import Models
from repositories import answer, serving

from headrace_server.core.catalogue import Override
from headrace_server.errors import InvalidInput
from headrace_server.models.repository import Mode

PROGRAM = """
from headrace_engines.python_model import Tensor

class Model:
    inputs = [Tensor("x", "FP32", [3])]
    outputs = [Tensor("y", "FP32", [3])]

    def execute(self, batch):
        return {"y": batch["x"] + 7}
"""
SCRIPT = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"
INPUT = {"data_type": "TYPE_FP32", "dims": [3]}


@pytest.fixture
def repository(tmp_path: Path, models: Models) -> Path:
    """Return a repository of a model with a script beside it, and of two programs."""
    folder = put(tmp_path, "plain", models.adding(1))
    (folder / "export.py").write_text(SCRIPT)
    (folder / "model.py").write_text(SCRIPT)
    for name, file in (("program", "model.py"), ("named", "mine.py"), ("broken", "model.py")):
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        (folder / file).write_text(PROGRAM)
        (folder / "export.py").write_text(SCRIPT)
    (tmp_path / "named" / "config.pbtxt").write_text('default_model_filename: "mine.py"')
    (tmp_path / "broken" / "config.pbtxt").write_text('backend: "onnxruntme"')
    (tmp_path / "plain" / "warmup").mkdir()
    (tmp_path / "plain" / "warmup" / "row").write_bytes(bytes(12))
    (tmp_path / "plain" / "labels.txt").write_text("ash\nelm\noak\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("plain", {"backend": "python", "default_model_filename": "export.py"}),
        ("plain", {"default_model_filename": "export.py"}),
        ("plain", {"backend": "python"}),
        ("plain", {"platform": "python"}),
        ("program", {"default_model_filename": "export.py"}),
        ("program", {"backend": "python", "default_model_filename": "./export.py"}),
        ("named", {"backend": "python", "default_model_filename": "export.py"}),
        ("broken", {"backend": "python"}),
    ],
)
def test_no_program_that_the_repository_does_not_serve(
    repository: Path, name: str, config: dict[str, Any]
) -> None:
    with (
        serving(repository, mode=Mode.EXPLICIT, allow_python=True) as served,
        pytest.raises(InvalidInput, match=r"as a program; programs are chosen by|no name of a file"),
    ):
        served.load_model(name, Override(json.dumps(config)))
    assert not list(repository.rglob("executed"))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("program", {"max_batch_size": 4}),
        ("program", {"backend": "python", "default_model_filename": "model.py", "max_batch_size": 4}),
        ("named", {"backend": "python", "default_model_filename": "mine.py", "max_batch_size": 4}),
    ],
)
def test_a_program_that_the_repository_serves_is_configured_by_callers(
    repository: Path, name: str, config: dict[str, Any]
) -> None:
    with serving(repository, mode=Mode.EXPLICIT, allow_python=True) as served:
        served.load_model(name, Override(json.dumps(config)))
        assert answer(served, name) == 7


def _with_labels(name: str) -> dict[str, Any]:
    return {"output": [{"name": "y", **INPUT, "label_filename": name}]}


def _with_sample(name: str) -> dict[str, Any]:
    return {"model_warmup": [{"name": "s", "inputs": {"x": {**INPUT, "input_data_file": name}}}]}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (_with_labels("1/export.py"), "output[0].label_filename"),
        (_with_labels("not there"), "output[0].label_filename"),
        (_with_labels("../program/1/model.py"), "output[0].label_filename"),
        (_with_sample("../1/export.py"), 'model_warmup[0].inputs["x"].input_data_file'),
        (_with_sample("other"), 'model_warmup[0].inputs["x"].input_data_file'),
    ],
)
def test_no_file_that_the_repository_does_not_name(
    repository: Path, config: dict[str, Any], field: str
) -> None:
    (repository / "plain" / "warmup" / "other").write_bytes(bytes(12))
    with serving(repository, mode=Mode.EXPLICIT) as served:
        with pytest.raises(InvalidInput, match="is not named by the repository's own configuration") as told:
            served.load_model("plain", Override(json.dumps(config)))
        assert field in str(told.value)


def test_files_that_the_repository_names_are_configured_by_callers(repository: Path) -> None:
    (repository / "plain" / "config.pbtxt").write_text(
        'output { name: "y" label_filename: "labels.txt" }'
        'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 input_data_file: "row" } } }'
    )
    with serving(repository, mode=Mode.EXPLICIT) as served:
        served.load_model("plain", Override(json.dumps(_with_labels("./labels.txt") | _with_sample("row"))))
        assert served.catalogue.find("plain", "").facts.settings.labels == {"y": ("ash", "elm", "oak")}


def test_files_that_a_caller_sends_along_are_the_callers_to_name(repository: Path, models: Models) -> None:
    files = {"1/model.onnx": models.adding(3).read_bytes(), "classes": b"one\ntwo\nthree"}
    with serving(repository, mode=Mode.EXPLICIT) as served:
        served.load_model("plain", Override(json.dumps(_with_labels("classes")), files))
        assert served.catalogue.find("plain", "").facts.settings.labels == {"y": ("one", "two", "three")}
