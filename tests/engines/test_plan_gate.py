"""Whether a rebuilt plan answers as its ONNX file does."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import Models

from headrace_engines.errors import GateError
from headrace_engines.plan_gate import LEAST_AGREEMENT, LEAST_SQNR_DB, Likeness, judge, likeness
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

SCORES = np.array([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1], [0.2, 0.2, 0.6], [0.5, 0.49, 0.01]], np.float32)


def test_equal_answers_are_as_like_as_can_be() -> None:
    assert likeness([SCORES], [SCORES]) == Likeness(4, 200.0, 1.0)


def test_classes_that_are_about_as_good_agree_and_others_do_not() -> None:
    tied, wrong = SCORES.copy(), SCORES.copy()
    tied[3] = (0.49, 0.5, 0.01)
    wrong[0] = (0.7, 0.1, 0.2)
    assert likeness([SCORES], [tied]).agreement == 1
    assert likeness([SCORES], [wrong]).agreement == 0.75
    labels = np.array([1, 0, 2, 0])
    assert likeness([SCORES, labels], [SCORES, np.array([1, 0, 2, 1])]).agreement == 0.75


def test_noise_is_told_in_decibels_also_of_bfloat16() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((4000, 1)).astype(np.float32)
    noisy = rows + 0.1 * random.standard_normal(rows.shape).astype(np.float32)
    assert likeness([rows], [noisy]).sqnr_db == pytest.approx(20, abs=0.5)
    halved = rows.astype(ml_dtypes.bfloat16)
    assert likeness([halved], [halved]).sqnr_db == 200


def test_rows_that_are_answered_alike_tell_little() -> None:
    alike = SCORES[:1].repeat(64, 0)
    assert str(likeness([alike], [alike])).endswith("on rows that are answered alike, which tells little")
    assert str(likeness([alike, SCORES.repeat(16, 0)], [alike, SCORES.repeat(16, 0)])).endswith("on 64 rows")


def test_a_dead_column_beside_a_large_one_is_no_likeness() -> None:
    values = np.random.default_rng(0).normal(size=(64, 2)) * [1e6, 1e-3]
    assert likeness([values], [values * [1, 0]]).sqnr_db < 1


@pytest.mark.parametrize("answers", [np.full_like(SCORES, np.nan), SCORES[:, :2]])
def test_answers_without_sense_are_not_alike(answers: np.ndarray) -> None:
    found = likeness([SCORES], [answers])
    assert not (found.sqnr_db >= LEAST_SQNR_DB and found.agreement >= LEAST_AGREEMENT)
    assert math.isnan(found.sqnr_db) or found.sqnr_db < LEAST_SQNR_DB


def _judged(reference: Path, candidate: Path) -> Likeness:
    return judge("p.plan", OnnxRuntimeEngine(reference), OnnxRuntimeEngine(candidate, max_batch_size=4))


def test_the_same_model_passes(models: Models) -> None:
    assert _judged(models.mlp(), models.mlp()) == Likeness(32, 200.0, 1.0)
    whole = models.unary("Softmax", TensorProto.FLOAT, (2, 3), (2, 3), axis=1)
    assert _judged(whole, whole).agreement == 1


def test_another_one_does_not(models: Models) -> None:
    with pytest.raises(GateError, match=r"^p\.plan: it does not answer as ONNX Runtime does: SQNR .*; 20 dB"):
        _judged(models.mlp(seed=1), models.mlp(seed=2))
    with pytest.raises(GateError, match="its inputs are x float16; those of the ONNX file are x float32"):
        _judged(models.unary("Relu", TensorProto.FLOAT), models.unary("Relu", TensorProto.FLOAT16))
    fixed = models.unary("Relu", TensorProto.FLOAT, (2, 3), (2, 3))
    with pytest.raises(GateError, match="batch axes differ: it has none, and the ONNX file a batch axis"):
        _judged(models.unary("Relu", TensorProto.FLOAT), fixed)


def test_outputs_are_compared_by_their_names(models: Models, tmp_path: Path) -> None:
    first = models.embedding()
    model = onnx.load(first)
    model.graph.output.reverse()
    onnx.save(model, tmp_path / "reversed.onnx")
    assert _judged(first, tmp_path / "reversed.onnx").agreement == 1
