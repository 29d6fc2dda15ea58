from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace_engines.errors import DataError, GateError
from headrace_engines.judgement import Judgement, Wish, judgement

_RANDOM = np.random.default_rng(0)
_ROWS = 200
_LOGITS = _RANDOM.normal(size=(_ROWS, 3)).astype(np.float32)
_SHARES = np.exp(_LOGITS) / np.exp(_LOGITS).sum(axis=1, keepdims=True)
_CLASSES = _SHARES.argmax(axis=1)
_NAMES = np.array(["a", "b", "c"], object)[_CLASSES]
_VALUE = _RANDOM.normal(size=(_ROWS, 1)).astype(np.float32)
_SHARE = (1 / (1 + np.exp(-_VALUE))).astype(np.float32)
_PICTURE = _RANDOM.normal(size=(_ROWS, 2, 2, 3)).astype(np.float32)


def _judged(
    answers: tuple[np.ndarray, ...], labels: np.ndarray | None = None, *, made_up: bool = False, **wishes: Any
) -> Judgement:
    names = [f"y{index}" for index in range(len(answers))]
    return judgement(names, answers, labels, Wish(**wishes), made_up=made_up)


@pytest.mark.parametrize(
    ("answers", "labels", "wishes", "metric", "output"),
    [
        pytest.param((_SHARES,), _CLASSES, {}, "accuracy", "y0", id="probabilities"),
        pytest.param((_LOGITS,), _CLASSES, {}, "accuracy", "y0", id="logits"),
        pytest.param((_CLASSES, _SHARES), _CLASSES, {}, "accuracy", "y0", id="class and probabilities"),
        pytest.param((_CLASSES, _SHARES), _CLASSES, {"metric": "auc"}, "auc", "y1", id="scores are needed"),
        pytest.param((_NAMES, _SHARES), _NAMES, {}, "accuracy", "y0", id="texts"),
        pytest.param((_CLASSES, _SHARES), _NAMES, {}, "accuracy", "y1", id="texts of numbered classes"),
        pytest.param((_SHARE,), _CLASSES > 1, {}, "accuracy", "y0", id="yes or no"),
        pytest.param((_SHARE,), (_CLASSES > 1).astype(int), {}, "accuracy", "y0", id="a probability"),
        pytest.param((_VALUE,), _VALUE[:, 0], {}, "rmse", "y0", id="values"),
        pytest.param((_VALUE,), _CLASSES * 7, {}, "rmse", "y0", id="whole values"),
        pytest.param((_LOGITS,), _LOGITS, {}, "rmse", "y0", id="several values"),
        pytest.param((_VALUE,), _VALUE, {"metric": "r2"}, "r2", "y0", id="another metric"),
        pytest.param((_SHARES,), None, {}, "agreement", "y0", id="no labels"),
        pytest.param((_CLASSES,), None, {}, "agreement", "y0", id="no labels, classes alone"),
        pytest.param((_LOGITS,), None, {}, "fidelity", "y0", id="no labels, any numbers"),
        pytest.param((_LOGITS,), None, {"task": "classification"}, "agreement", "y0", id="told the task"),
        pytest.param((_SHARES,), None, {"task": "regression"}, "fidelity", "y0", id="told the other task"),
        pytest.param((_PICTURE,), None, {}, "fidelity", "y0", id="pictures"),
    ],
)
def test_the_metric_is_that_of_the_task(
    answers: tuple[np.ndarray, ...],
    labels: np.ndarray | None,
    wishes: dict[str, str],
    metric: str,
    output: str,
) -> None:
    judged = _judged(answers, labels, **wishes)
    assert (judged.metric, judged.outputs[0][1]) == (metric, output)
    quality = judged.compare(answers, answers)
    assert quality.loss == 0
    assert quality.passed
    assert quality.output == output


def test_noise_lies_near_no_model_and_tells_no_class() -> None:
    assert _judged((_SHARES,), made_up=True).metric == "fidelity"


def test_labels_in_the_order_of_their_names_are_places() -> None:
    judged = _judged((_SHARES,), _NAMES)
    assert judged.compare((_SHARES,), (_SHARES,)).reference == 1.0
    assert _judged((_SHARES,), _CLASSES * 10 + 5).compare((_SHARES,), (_SHARES,)).reference == 1.0


def test_the_output_that_lost_most_counts() -> None:
    worse = _LOGITS + _RANDOM.normal(size=_LOGITS.shape)
    quality = _judged((_VALUE, _LOGITS)).compare((_VALUE, _LOGITS), (_VALUE, worse))
    assert quality.output == "y1"
    assert not quality.passed


def test_a_larger_loss_may_be_accepted() -> None:
    worse = _LOGITS + 0.2 * _RANDOM.normal(size=_LOGITS.shape)
    assert not _judged((_LOGITS,)).compare((_LOGITS,), (worse,)).passed
    assert _judged((_LOGITS,), max_loss=0.1).compare((_LOGITS,), (worse,)).passed


def test_answers_that_are_no_numbers_are_refused() -> None:
    broken = _LOGITS.copy()
    broken[3, 1] = np.nan
    with pytest.raises(GateError, match="answers in 'y0' are not numbers"):
        _judged((_LOGITS,)).compare((_LOGITS,), (broken,))
    _judged((broken,)).compare((broken,), (broken,))


def test_labels_of_other_rows_are_suspected() -> None:
    assert not _judged((_SHARES,), _CLASSES).is_no_better_than_guessing((_SHARES,))
    assert _judged((_SHARES,), (_CLASSES + 1) % 3).is_no_better_than_guessing((_SHARES,))
    assert not _judged((_VALUE,), _VALUE).is_no_better_than_guessing((_VALUE,))
    assert not _judged((_SHARES,)).is_no_better_than_guessing((_SHARES,))


@pytest.mark.parametrize(
    ("answers", "labels", "wishes", "complaint"),
    [
        ((_SHARES,), np.where(_CLASSES == 2, 5, 1), {}, "label 5 of held-out row .* classes 0 to 2"),
        ((_SHARES,), _NAMES[:, None].repeat(2, 1), {}, "expected one class"),
        (
            (_SHARES,),
            np.where(_NAMES == "a", "b", _NAMES),
            {},
            "labels are of 2 classes, and output 'y0' has 3",
        ),
        ((_VALUE,), _LOGITS, {}, r"labels have 3 value\(s\) a row, and the model's outputs are \[1\]"),
        ((_VALUE,), np.full(_ROWS, np.nan), {"task": "regression"}, "200 labels are not finite"),
        ((_VALUE,), _NAMES, {"task": "regression"}, "labels are no numbers"),
        ((_SHARES,), None, {"metric": "accuracy"}, "metric 'accuracy' needs labels"),
        ((_PICTURE,), None, {"metric": "agreement"}, "no output tells classes"),
    ],
)
def test_labels_that_do_not_fit_are_told(
    answers: tuple[np.ndarray, ...], labels: np.ndarray | None, wishes: dict[str, str], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        _judged(answers, labels, **wishes)


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        (Wish(task="ranking"), "unknown task 'ranking'; expected classification or regression"),
        (Wish(metric="mape"), "unknown metric 'mape'"),
        (Wish(max_loss=0), "expected a share between 0 and 1"),
    ],
)
def test_what_cannot_be_wished_for_is_refused(wish: Wish, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        wish.check()
