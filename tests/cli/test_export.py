from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from digits import BuiltRepository
from ml_models import answers
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from headrace_cli.main import run
from headrace_engines import folders
from headrace_engines.importers import exported
from headrace_engines.importers.session import ImportSession

_RANDOM = np.random.default_rng(0)
ROWS = _RANDOM.normal(size=(80, 3)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0).astype(int)


def _stored(estimator: object, folder: Path) -> Path:
    path = folder / "model.joblib"
    joblib.dump(estimator, path)
    return path


@pytest.fixture
def logistic(tmp_path: Path) -> Path:
    return _stored(LogisticRegression().fit(ROWS, LABELS), tmp_path)


def _answers(path: Path) -> list[NDArray[Any]]:
    return answers(onnx.load(path), ROWS)


def test_an_estimator_becomes_pmml_and_that_becomes_onnx(
    logistic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, through = tmp_path / "model.pmml", tmp_path / "through.onnx"
    assert run(["export", str(logistic), str(document), "--trust"]) == 0
    assert capsys.readouterr().out == f"written: {document}\n"
    assert run(["export", str(document), str(through)]) == 0
    direct = tmp_path / "direct.onnx"
    assert run(["export", str(logistic), str(direct), "--trust", "--opset", "18"]) == 0
    assert [each.version for each in onnx.load(direct).opset_import] == [18]
    shares = LogisticRegression().fit(ROWS, LABELS).predict_proba(ROWS)
    for path in (through, direct):
        label, found = _answers(path)
        np.testing.assert_allclose(found, shares, atol=1e-5)
        np.testing.assert_array_equal(label, found.argmax(axis=1))


def test_one_file_is_written_even_of_trees(tmp_path: Path) -> None:
    forest = _stored(RandomForestRegressor(3, max_depth=3, random_state=0).fit(ROWS, ROWS[:, 1]), tmp_path)
    into = tmp_path / "into"
    into.mkdir()
    assert run(["export", str(forest), str(into / "forest.onnx"), "--trust"]) == 0
    assert [path.name for path in into.iterdir()] == ["forest.onnx"]


@pytest.mark.parametrize("place", ["digits", "digits/1"])
def test_a_model_that_was_built_gives_what_it_was_trained_as(
    place: str, digits_repository: BuiltRepository, tmp_path: Path
) -> None:
    to = tmp_path / "digits.onnx"
    assert run(["export", str(digits_repository.folder / place), str(to)]) == 0
    assert to.read_bytes() == (digits_repository.folder / "digits" / "1" / "model.onnx").read_bytes()


def test_a_folder_of_models_is_none(
    digits_repository: BuiltRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(digits_repository.folder), str(tmp_path / "digits.onnx")]) == 2
    assert "give the model's file" in capsys.readouterr().err


def test_a_model_that_was_changed_since_is_refused(
    digits_repository: BuiltRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = tmp_path / "1"
    shutil.copytree(digits_repository.folder / "digits" / "1", version)
    with (version / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert run(["export", str(version), str(tmp_path / "digits.onnx")]) == 1
    assert "not the file that manifest.json describes" in capsys.readouterr().err
    assert not (tmp_path / "digits.onnx").exists()


@pytest.mark.parametrize(
    ("to", "code", "told"),
    [
        ("model.txt", 2, "model.txt: its ending tells what is written: .onnx or .pmml"),
        ("model.joblib", 2, "its ending tells"),
        ("taken.onnx", 1, "taken.onnx exists already"),
        ("nowhere/model.onnx", 1, "nowhere cannot be written: no such file or directory"),
    ],
)
def test_places_that_cannot_be_written_are_told(
    to: str, code: int, told: str, logistic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.onnx").write_text("mine")
    assert run(["export", str(logistic), str(tmp_path / to), "--trust"]) == code
    assert told in capsys.readouterr().err
    assert (tmp_path / "taken.onnx").read_text() == "mine"


def test_weights_beside_the_model_replace_nobodys_file(
    digits_repository: BuiltRepository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exported, "_LARGEST_BYTES", 4096)
    version = tmp_path / "1"
    shutil.copytree(digits_repository.folder / "digits" / "1", version)
    (version / "model.onnx.data").touch()  # as beside a model whose weights are apart
    theirs = tmp_path / "to.onnx.data"
    theirs.write_text("mine")
    assert run(["export", str(version), str(tmp_path / "to.onnx")]) == 1
    assert "to.onnx.data exists already" in capsys.readouterr().err
    assert theirs.read_text() == "mine"
    assert not (tmp_path / "to.onnx").exists()


def test_what_a_build_sweeps_away_is_no_exports(
    logistic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = tmp_path / "models"
    into.mkdir()
    convert = ImportSession.convert

    def swept_meanwhile(session: ImportSession, to: Path) -> None:
        with folders.locked(into):  # as every build does where it publishes
            convert(session, to)

    monkeypatch.setattr(ImportSession, "convert", swept_meanwhile)
    assert run(["export", str(logistic), str(into / "model.onnx"), "--trust"]) == 0


def test_what_has_no_form_in_pmml_is_told(
    digits_repository: BuiltRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = _stored(SVC().fit(ROWS, LABELS), tmp_path)
    model = digits_repository.folder / "digits" / "1" / "model.onnx"
    for source, told in (
        (machine, "SVC has no form in PMML"),
        (model, "no form in PMML that is written here"),
        (digits_repository.folder / "digits", "what was built is ONNX"),
    ):
        assert run(["export", str(source), str(tmp_path / "model.pmml"), "--trust"]) == 2
        assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pmml"))
    assert not list(tmp_path.glob(".*"))


def test_a_pickle_needs_trust(logistic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(logistic), str(tmp_path / "model.pmml")]) == 1
    assert "--trust" in capsys.readouterr().err
