from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sklearn.neural_network import MLPClassifier

from headrace_engines import digits, manifest, pipeline, report
from headrace_engines.errors import GateError
from headrace_engines.importers.sklearn import convert
from headrace_engines.manifest import Recipe
from headrace_engines.source import Prepared, Source


@pytest.fixture(scope="module")
def small() -> Prepared:
    """A perceptron that is too small to gain anything from INT8."""
    data = digits.splits()
    classifier = MLPClassifier((24,), max_iter=60, tol=1e-2, random_state=0)
    classifier.fit(data.train.images, data.train.labels)
    return Prepared(
        model=convert(classifier, input_name=digits.INPUT, output_name=digits.OUTPUT).SerializeToString(),
        calibration={digits.INPUT: data.calibration.images},
        held_out={digits.INPUT: data.held_out.images},
        labels=data.held_out.labels,
        expected=classifier.predict_proba(data.held_out.images),
        data={"held_out": "a hash"},
    )


def _make(prepared: Prepared, folder: Path) -> list[tuple[str, float]]:
    steps: list[tuple[str, float]] = []
    source = Source(Recipe("small", {"seed": 0}), (), lambda: prepared)
    pipeline.make(source, {"onnx": "1"}, folder, lambda step, fraction: steps.append((step, fraction)))
    return steps


def test_an_artefact_that_is_no_faster_is_not_kept(tmp_path: Path, small: Prepared) -> None:
    _make(small, tmp_path)
    described, measured = manifest.read(tmp_path), report.read(tmp_path)
    assert described is not None
    assert measured is not None
    fp32, int8 = described.artefacts
    assert (fp32.file, fp32.passed) == ("model.onnx", True)
    assert (int8.recipe, int8.passed, int8.reason) == (
        "int8-cpu",
        False,
        "not better: no faster than FP32",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "model.onnx", "report.json"]
    assert measured.comparisons[0].speed_ratio < 1.05
    assert described.data == {"held_out": "a hash"}


def test_steps_are_told_in_order_and_timed(tmp_path: Path, small: Prepared) -> None:
    steps = _make(small, tmp_path)
    measured = report.read(tmp_path)
    assert measured is not None
    assert set(measured.seconds) == {step for step, _ in steps}
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] < 1


def test_calibration_on_rows_that_are_unlike_any_is_refused(tmp_path: Path, small: Prepared) -> None:
    garbage = {digits.INPUT: np.full((200, 64), 1e-3, np.float32)}
    with pytest.raises(GateError, match=r"accuracy 0\.\d+, FP32 0\.9\d+, on 719 held-out rows; drop \d\d"):
        _make(replace(small, calibration=garbage), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_model_whose_weights_were_destroyed_is_refused(tmp_path: Path, small: Prepared) -> None:
    model = onnx.load_from_string(small.model)
    weights = model.graph.initializer[0]
    destroyed = np.zeros_like(numpy_helper.to_array(weights))
    weights.CopyFrom(numpy_helper.from_array(destroyed, weights.name))
    with pytest.raises(GateError, match=r"model\.onnx: its answers differ .* by 0\.\d+"):
        _make(replace(small, model=model.SerializeToString()), tmp_path)


def test_answers_that_are_no_numbers_are_refused(tmp_path: Path, small: Prepared) -> None:
    with pytest.raises(GateError, match="by nan"):
        _make(replace(small, expected=np.full_like(small.expected, np.nan)), tmp_path)


def test_too_few_held_out_rows_are_refused(tmp_path: Path, small: Prepared) -> None:
    few = replace(
        small,
        held_out={digits.INPUT: small.held_out[digits.INPUT][:40]},
        labels=small.labels[:40],
        expected=small.expected[:40],
    )
    with pytest.raises(GateError, match=r"on 40 held-out rows.*interval may reach 2"):
        _make(few, tmp_path)
