"""Several outputs, each judged by what suits it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headrace_engines.errors import DataError
from headrace_engines.judgement import Judgement, Wish, judgement

_RANDOM = np.random.default_rng(0)
_ROWS = 200
_LOGITS = _RANDOM.normal(size=(_ROWS, 3)).astype(np.float32)
_SHARES = np.exp(_LOGITS) / np.exp(_LOGITS).sum(axis=1, keepdims=True)
_CLASSES = _SHARES.argmax(axis=1)
_ONE_HOT = np.eye(3)[_CLASSES]
_VALUE = _RANDOM.normal(size=(_ROWS, 1)).astype(np.float32)
_SAME = np.full((_ROWS, 3), 0.25, np.float32)
_ONE_CLASS = np.sort(_SHARES, axis=1)
_OTHERS = np.random.default_rng(1).permutation(_ROWS)
_COLOUR = _SHARES[_RANDOM.permutation(_ROWS)]


def _judged(
    answers: tuple[np.ndarray, ...], labels: np.ndarray | None = None, *, made_up: bool = False, **wishes: Any
) -> Judgement:
    names = [f"y{index}" for index in range(len(answers))]
    return judgement(names, answers, labels, Wish(**wishes), made_up=made_up)


@pytest.mark.parametrize(
    ("answers", "labels", "wishes", "metrics"),
    [
        pytest.param((_SHARES, _COLOUR), None, {}, ["agreement", "agreement"], id="two heads"),
        pytest.param((_SHARES, _COLOUR), _CLASSES, {}, ["accuracy", "agreement"], id="labels of one head"),
        pytest.param((_SHARES, _COLOUR), _CLASSES, {"metric": "f1"}, ["f1", "agreement"], id="by F1"),
        pytest.param((_SHARES, _COLOUR), _CLASSES, {"metric": "auc"}, ["auc", "agreement"], id="by AUC"),
        pytest.param((_SHARES, _COLOUR), _CLASSES, {"metric": "top-2"}, ["top-2", "agreement"], id="top"),
        pytest.param((_SHARES, _COLOUR), _CLASSES[_OTHERS], {}, ["agreement"] * 2, id="labels of no use"),
        pytest.param((_SHARES, _VALUE), _CLASSES, {}, ["accuracy", "fidelity"], id="a value beside"),
        pytest.param((_SHARES, _COLOUR), None, {"metric": "fidelity"}, ["fidelity"] * 2, id="by fidelity"),
        pytest.param((_VALUE, _CLASSES), None, {"metric": "fidelity"}, ["fidelity", "agreement"], id="class"),
        pytest.param((_VALUE, _CLASSES), _VALUE, {}, ["rmse", "agreement"], id="values, and a class"),
        pytest.param((_VALUE, _LOGITS), _VALUE, {}, ["rmse", "fidelity"], id="other values"),
        pytest.param((_SHARES, _COLOUR), None, {"made_up": True}, ["fidelity"] * 2, id="on noise"),
        pytest.param((_SHARES, _ONE_CLASS), None, {}, ["agreement", "fidelity"], id="one class named"),
    ],
)
def test_outputs_that_the_labels_are_not_for_are_judged_by_likeness(
    answers: tuple[np.ndarray, ...], labels: np.ndarray | None, wishes: dict[str, Any], metrics: list[str]
) -> None:
    judged = _judged(answers, labels, **wishes)
    assert [one.metric for one in judged.criteria] == metrics
    assert judged.compare(answers, answers).passed
    worse = (answers[0], answers[1][_OTHERS])
    quality = judged.compare(answers, worse)
    assert (quality.output.partition(", ")[0], quality.passed) == ("y1", False)
    parts = judged.divided(_ROWS)
    assert parts is not None
    for part in parts:
        assert not replace(part, max_loss=0.1).compare(answers, worse).passed
        assert replace(part, max_loss=0.1).compare(answers, answers).passed


@pytest.mark.parametrize("labels", [_CLASSES + 1, _ONE_HOT])
@pytest.mark.parametrize(
    ("metric", "metrics"),
    [("", ["accuracy", "accuracy"]), ("f1", ["f1", "f1"]), ("auc", ["auc", "accuracy"])],
)
def test_a_class_and_its_scores_are_judged_by_the_same_labels(
    labels: np.ndarray, metric: str, metrics: list[str]
) -> None:
    """What turns a class may be right to: only labels tell, and they are for both outputs."""
    told = (_CLASSES + 1, _SHARES)
    wish = Wish(metric=metric)
    judged = judgement(["label", "scores"], told, labels, wish, made_up=False, classes=(1, 2, 3))
    assert [one.metric for one in judged.criteria] == metrics
    ruined = (told[0], _SHARES[_OTHERS])
    quality = judged.compare(told, ruined)
    assert (quality.output, quality.passed) == ("scores", False)


def test_an_output_that_is_the_same_for_every_row_is_told_beside_others() -> None:
    judged = _judged((_SAME, _VALUE))
    assert judged.tells
    assert judged.first.name == "y1"
    assert judged.notes[-1].startswith(
        "the quality of some outputs could not be judged, since the answers of"
    )


def test_noise_judges_no_class_beside_values() -> None:
    assert [one.name for one in _judged((_CLASSES, _LOGITS), made_up=True).criteria] == ["y1"]


def test_fidelity_needs_values() -> None:
    with pytest.raises(DataError, match="no output is of floating point, which metric 'fidelity' needs"):
        _judged((_CLASSES,), metric="fidelity")
