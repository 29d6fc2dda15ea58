from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_models import Models

from headrace_engines import trial
from headrace_engines.attempt import Reference, attempt
from headrace_engines.compress.recipes import chosen
from headrace_engines.criterion import Criterion
from headrace_engines.gates import Speed
from headrace_engines.judgement import Judgement, Wish, judgement
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.source import Prepared

_ROWS = 480
_WIDTH = 16
_RANDOM = np.random.default_rng(0)
_CALIBRATION = _RANDOM.normal(size=(64, _WIDTH)).astype(np.float32)


def _perceptron(folder: Path, *suffering: int) -> Path:
    """Return one of five layers, of which some suffer: a unit that is always 0 has large weights there."""
    path = folder / "model.onnx"
    model = onnx.load(Models(folder).mlp((_WIDTH, 32, 32, 32, 32, 4), seed=3))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {name: numpy_helper.to_array(tensor).copy() for name, tensor in weights.items()}
    for layer in suffering:
        values[f"w{layer - 1}"][:, 0] = values[f"b{layer - 1}"][0] = 0
        values[f"w{layer}"][0] = 1e6
    for name, changed in values.items():
        weights[name].CopyFrom(numpy_helper.from_array(changed, name))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _perceptron(tmp_path_factory.mktemp("uneven"), 4)


@pytest.fixture
def engine(uneven: Path) -> Iterator[OnnxRuntimeEngine]:
    with closing(OnnxRuntimeEngine(uneven, max_batch_size=64)) as opened:
        yield opened


def _reference(engine: OnnxRuntimeEngine, model: Path, rows: np.ndarray) -> Reference:
    (given,) = engine.spec.inputs
    held_out = {given.name: rows.astype(np.float32)}
    prepared = Prepared(model, {given.name: _CALIBRATION}, held_out, None, (), {})
    answers = trial.answers(engine, held_out)
    judged = judgement(["y"], answers, None, Wish(metric="fidelity", max_loss=0.1), made_up=False)
    return Reference(model, engine, prepared, answers, judged, (64,))


def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "compare_speed", lambda *_: (Speed(64, 2.0, 1.0),))


def test_layers_are_chosen_by_some_rows_and_judged_by_the_others(
    engine: OnnxRuntimeEngine, uneven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _faster(monkeypatch)
    (how,) = chosen(["int8-cpu"], ("cpu",))
    made = attempt(how, _reference(engine, uneven, _RANDOM.normal(size=(_ROWS, _WIDTH))))
    assert made.artefact.passed
    assert made.comparison is not None
    assert made.comparison.quality is not None
    assert made.comparison.quality.rows == _ROWS - _ROWS // 3
    assert [layer.kept for layer in made.comparison.layers] == [True, False, False, False, False]


def test_what_does_not_do_for_the_rows_to_choose_by_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _faster(monkeypatch)
    model = _perceptron(tmp_path, 2, 4)
    (how,) = chosen(["int8-cpu"], ("cpu",))
    with closing(OnnxRuntimeEngine(model, max_batch_size=64)) as engine:
        made = attempt(how, _reference(engine, model, _RANDOM.normal(size=(_ROWS, _WIDTH))))
    assert made.artefact.passed
    assert made.comparison is not None
    assert [layer.kept for layer in made.comparison.layers] == [True, True, False, False, False]


def test_what_was_chosen_is_judged_once(
    engine: OnnxRuntimeEngine, uneven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows to choose by are like those for calibration, and the others far beyond these."""
    _faster(monkeypatch)
    parts = Judgement((Criterion(0, "y", "fidelity"),), 0.01).divided(_ROWS)
    assert parts is not None
    judging = parts[1].rows
    assert judging is not None
    rows = np.where(judging[:, None], 100, 1) * _RANDOM.normal(size=(_ROWS, _WIDTH))
    (how,) = chosen(["int8-cpu"], ("cpu",))
    made = attempt(how, _reference(engine, uneven, rows))
    assert not made.artefact.passed
    assert made.comparison is not None
    assert f"on {_ROWS - _ROWS // 3} held-out rows" in made.comparison.verdict
    assert [layer.kept for layer in made.comparison.layers] == [True, False, False, False, False]
    assert made.recipe.settings["kept"] == made.comparison.layers[0].name


@pytest.mark.parametrize(("recipe", "target"), [("int8-cpu", "cpu"), ("int8-tensorrt", "tensorrt")])
def test_where_all_rows_are_answered_alike_no_artefact_is_kept(
    engine: OnnxRuntimeEngine, uneven: Path, recipe: str, target: str
) -> None:
    reference = _reference(engine, uneven, np.ones((_ROWS, _WIDTH)))
    generous = replace(reference, judgement=replace(reference.judgement, max_loss=0.99))
    (how,) = chosen([recipe], (target,))
    made = attempt(how, generous)
    assert (made.artefact.passed, made.comparison) == (False, None)
    assert made.artefact.reason == (
        "not made: quality could not be judged, since the answers of FP32 in 'y' are the same for every row: "
        "give rows with --data that the model tells apart, prepared as it was trained"
    )
    assert not (uneven.parent / made.artefact.file).exists()
