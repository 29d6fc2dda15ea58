from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace_engines import digits, trial
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

from .conftest import BuiltDigits


@pytest.fixture(scope="module")
def folder(built_digits: BuiltDigits) -> Path:
    return built_digits.result.folder


def test_answers_come_for_all_rows_in_their_order(folder: Path) -> None:
    held_out = digits.held_out()
    few, many = (OnnxRuntimeEngine(folder / "model.onnx", max_batch_size=size) for size in (8, 719))
    (answers,) = trial.answers(few, {digits.INPUT: held_out.images})
    assert answers.shape == (719, 10)
    assert np.allclose(answers, many.run([held_out.images])[0], atol=1e-6)
    assert np.mean(answers.argmax(1) == held_out.labels) > 0.97


def test_an_engine_beside_itself_is_as_fast(folder: Path) -> None:
    engines = [OnnxRuntimeEngine(folder / "model.onnx") for _ in range(2)]
    speeds = trial.compare_speed(*engines, {digits.INPUT: digits.held_out().images}, (1, 64))
    assert [speed.rows for speed in speeds] == [1, 64]
    assert all(1 / 3 < speed.ratio < 3 for speed in speeds)
    assert speeds[1].reference_seconds > speeds[0].reference_seconds


def test_fewer_rows_than_a_batch_are_repeated(folder: Path) -> None:
    engines = [OnnxRuntimeEngine(folder / "model.onnx") for _ in range(2)]
    speeds = trial.compare_speed(*engines, {digits.INPUT: digits.held_out().images[:3]}, (64,))
    assert speeds[0].candidate_seconds > 0
    assert np.array_equal(engines[0].inputs(0)[0][3], engines[0].inputs(0)[0][0])


def test_what_is_infinite_in_both_is_no_difference() -> None:
    answers = np.array([[np.inf], [1.0], [2.0], [np.nan]], np.float32)
    assert trial.largest_difference([answers], [answers.copy()]) == 0
    other = answers.copy()
    other[1] = np.inf
    assert trial.largest_difference([answers], [other]) == np.inf
    assert trial.differing_rows([answers], [other], 1e-4).tolist() == [1]


def test_a_large_column_hides_no_other() -> None:
    answers = np.column_stack([np.linspace(0, 1e6, 50), np.linspace(0, 1, 50)]).astype(np.float32)
    dead = answers.copy()
    dead[:, 1] = 0.5
    assert trial.largest_difference([answers], [dead]) > 1e-4
    assert {0, 49} <= set(trial.differing_rows([answers], [dead], 1e-4).tolist())


def test_the_rows_of_classes_that_differ_are_told() -> None:
    answers = [np.arange(4), np.zeros((4, 2), np.float32)]
    other = [np.array([0, 1, 5, 3]), np.zeros((4, 2), np.float32)]
    assert trial.largest_difference(answers, other) == 0.25
    assert trial.differing_rows(answers, other, 1e-4).tolist() == [2]
