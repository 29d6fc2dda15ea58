"""`headrace build` of files: what the flags mean, and what a person is asked and told."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_models import Models

from headrace_cli.build_options import options_of
from headrace_cli.main import cli, run
from headrace_engines.build import BuildOptions
from headrace_engines.importers.limits import Limits


@pytest.fixture
def model(models: Models, tmp_path: Path) -> Path:
    return models.mlp((4, 8, 3)).rename(tmp_path / "small.onnx")


def _build(*arguments: str | Path, folder: Path) -> int:
    places = ("--into", folder / "models", "--cache", folder / "caches")
    return run(["build", *map(str, (*arguments, *places))])


def test_a_file_is_built_under_its_own_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=random.normal(size=(300, 4)).astype(np.float32), y=np.arange(300) % 3)
    assert _build(model, "--data", tmp_path / "rows.npz", "--labels", "y", "--json", folder=tmp_path) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(tmp_path / "models" / "small" / "1")
    assert told["manifest"]["gates"]["metric"] == "agreement", "these labels are of no use"
    assert told["manifest"]["made_up"] is False
    assert told["report"]["comparisons"] == []
    assert any("better than guessing" in warning for warning in told["report"]["warnings"])


def test_building_on_noise_is_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _build(model, folder=tmp_path) == 0
    assert (
        "note: without data, the artefacts could only be compared with FP32 on noise"
        in capsys.readouterr().out
    )


def test_a_model_that_answers_all_noise_alike_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = onnx.load(model)
    (weights,) = (tensor for tensor in dead.graph.initializer if tensor.name == "w1")
    weights.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(weights), weights.name))
    onnx.save(dead, model)
    assert _build(model, folder=tmp_path) == 0
    told = capsys.readouterr().out
    assert "fp32: quality not judged on " in told
    assert (
        "note: quality could not be judged, since the answers of FP32 in 'y' are the same for every" in told
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A pickle that would write a file if it were opened."""
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(_Writes(tmp_path / "executed")))
    return path


class _Writes:
    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self._file, "code was executed")


def test_code_is_not_executed_unless_somebody_says_so(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _build(program, folder=tmp_path) == 1
    told = capsys.readouterr().err
    assert "can execute whatever its author put in it; allow that with --trust" in told
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("answer", "executed"), [("n", False), ("y", True)])
def test_a_person_at_a_terminal_is_asked(
    program: Path, tmp_path: Path, answer: str, executed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import click.testing

    arguments = ["build", program, "--into", tmp_path / "models", "--cache", tmp_path / "caches"]
    runner = click.testing.CliRunner()
    with runner.isolation(input=f"{answer}\n"):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        assert run(list(map(str, arguments))) != 0, "it is no model, whoever is trusted"
    assert (tmp_path / "executed").exists() == executed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--input", "x:float32"], "--input 'x:float32': expected NAME:DTYPE:DIMS"),
        (["--input", "x:float32:3,a"], "dims '3,a' are no whole numbers"),
        (["--columns", "x"], "--columns 'x': expected INPUT=COLUMN"),
        (["--mean", "a,b"], "--mean 'a,b': expected numbers"),
        (["--std", "1,0,1"], "--std 0: pixels become"),
        (["--scale", "0"], "--scale 0: pixels become"),
        (["--import-timeout-secs", "0"], "0.0 is not in the range"),
        (["--import-memory-gib", "inf"], "--import-memory-gib: expected numbers that are finite"),
        (["--scale", "nan"], "--scale: expected numbers that are finite"),
        (["--mean", "1,2,3", "--std", "1,2"], "--mean and --std have one number"),
        (["--mean", "1", "--std", "2"], "--mean, --std: there are no pictures for it: --data is no folder"),
        (["--data", __file__, "--scale", "2"], "--scale: there are no pictures for it"),
        (["--uint8", "--resize", "9"], "--resize: there are no pictures for it"),
        (["--resize", "0"], "Invalid value for '--resize'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--channels-last"], "it needs --uint8"),
        (["--metric", "mape"], "unknown metric 'mape'"),
        (["--max-loss", "2"], "expected a share between 0 and 1"),
        (["--recipe", "int9"], "no recipe 'int9'"),
        (["--recipe", "fp8"], "recipe 'fp8' is for tensorrt, and the build for cpu"),
        (["--target", "tpu"], "unknown target 'tpu'"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    model: Path, tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _build(model, *arguments, folder=tmp_path) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--data", "none.npz", "none.npz"),
        ("--labels", "y", "without the data"),
        ("--columns", "x=a", "without the data"),
        ("--metric", "auc", "needs labels"),
    ],
)
def test_data_that_are_not_there_are_told(
    model: Path, tmp_path: Path, flag: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _build(model, flag, value, folder=tmp_path) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["digits", "--data", "rows.npz", "--seed", "0"], "and --data, --seed would change nothing of it"),
        (
            ["digits", "--opset", "18", "--import-timeout-secs", "9"],
            "and --opset, --import-timeout-secs would",
        ),
        (["digits", "--mean", "0.5"], "name a file of that name as ./digits"),
        (
            ["-"],
            "'-' is no source: a model is opened as a file or a folder, and not read from standard input",
        ),
    ],
)
def test_a_source_that_is_no_file_is_told_so(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _build(*arguments, folder=tmp_path) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _options(*arguments: str) -> BuildOptions:
    command = cli.get_command(cli.make_context("headrace", ["build", "x"]), "build")
    assert command is not None
    given = command.make_context("build", ["x", *arguments]).params
    for name in ("source", "name", "into", "cache", "as_json"):
        given.pop(name)
    return options_of(**given)


def test_flags_become_options() -> None:
    options = _options(
        "--input", "input:0:float32:3,224,224", "--input", "mask::", "--columns", "x=a,b", "--mean", "1,2,3",
        "--uint8", "--channels-last", "--trust", "--seed", "7", "--max-batch-size", "16",
        "--task", "regression",
    )  # fmt: skip
    importing, data = options.file.importing, options.file.data
    assert importing.input_shapes == {"input:0": (3, 224, 224), "mask": ()}
    assert importing.input_dtypes == {"input:0": "float32"}
    assert (data.columns, data.seed, data.pixels.mean) == ({"x": ("a", "b")}, 7, (1.0, 2.0, 3.0))
    assert options.file.fold is not None
    assert options.file.fold.channels_last
    assert options.file.is_trusted
    assert importing.is_trusted
    assert (options.max_batch_size, options.wish.task) == (16, "regression")
    limits = _options("--import-timeout-secs", "9", "--import-memory-gib", "1.5").file.importing.limits
    assert limits == Limits(9.0, 3 << 29)
    assert _options() == BuildOptions()
