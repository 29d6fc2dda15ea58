from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace_engines.class_labels import known
from headrace_engines.criterion import Criterion
from headrace_engines.errors import DataError, GateError
from headrace_engines.judgement import Judgement, Wish, judgement

_RANDOM = np.random.default_rng(0)
_ROWS = 200
_LOGITS = _RANDOM.normal(size=(_ROWS, 3)).astype(np.float32)
_SHARES = np.exp(_LOGITS) / np.exp(_LOGITS).sum(axis=1, keepdims=True)
_CLASSES = _SHARES.argmax(axis=1)
_ONE_HOT = np.eye(3)[_CLASSES]
_NAMES = np.array(["a", "b", "c"], object)[_CLASSES]
_VALUE = _RANDOM.normal(size=(_ROWS, 1)).astype(np.float32)
_SHARE = (1 / (1 + np.exp(-_VALUE))).astype(np.float32)
_NEAR_CLASS = ((_VALUE > 0) + 0.1 * _VALUE).astype(np.float32)
_PICTURE = _RANDOM.normal(size=(_ROWS, 2, 2, 3)).astype(np.float32)
_SAME = np.full((_ROWS, 3), 0.25, np.float32)
_ONE_CLASS = np.sort(_SHARES, axis=1)
_OTHERS = np.random.default_rng(1).permutation(_ROWS)


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
        pytest.param((_SHARE,), _SHARE[:, 0] > 0.5, {}, "accuracy", "y0", id="yes or no"),
        pytest.param((_SHARE,), (_SHARE > 0.5).astype(int), {}, "accuracy", "y0", id="a probability"),
        pytest.param((_VALUE,), (_VALUE > 0).astype(int), {}, "accuracy", "y0", id="a logit"),
        pytest.param((_NEAR_CLASS,), (_VALUE > 0).astype(int), {}, "rmse", "y0", id="near 0 and 1"),
        pytest.param((_VALUE,), _VALUE[:, 0], {}, "rmse", "y0", id="values"),
        pytest.param((_VALUE,), np.round(_VALUE * 7), {}, "rmse", "y0", id="whole values"),
        pytest.param((_LOGITS,), _LOGITS, {}, "rmse", "y0", id="several values"),
        pytest.param((_LOGITS,), _ONE_HOT, {}, "accuracy", "y0", id="one-hot classes"),
        pytest.param((_SHARES,), _ONE_HOT, {"task": "regression"}, "rmse", "y0", id="values of 0 and 1"),
        pytest.param((_CLASSES, _SHARES), _ONE_HOT, {}, "accuracy", "y0", id="one-hot, and classes told"),
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
    assert (judged.first.metric, judged.first.name) == (metric, output)
    quality = judged.compare(answers, answers)
    assert quality.loss == 0
    assert quality.passed
    assert quality.output.partition(", ")[0] == output


def test_noise_lies_near_no_model_and_tells_no_class() -> None:
    assert _judged((_SHARES,), made_up=True).first.metric == "fidelity"


def test_labels_in_the_order_of_their_names_are_places() -> None:
    judged = _judged((_SHARES,), _NAMES)
    assert judged.compare((_SHARES,), (_SHARES,)).reference == 1.0


@pytest.mark.parametrize(
    "labels", [_CLASSES + 50, _CLASSES * 10 + 5, _CLASSES - 1, np.where(_CLASSES == 2, -1, 1)]
)
def test_numbers_out_of_range_are_no_ranks(labels: np.ndarray) -> None:
    first = np.flatnonzero(~np.isin(labels, range(3)))[0]
    places = tuple("line 7" if at == first else "another" for at in range(_ROWS))
    with pytest.raises(DataError, match=r"label -?\d+ in line 7 is out of range: the classes .* are 0 to 2"):
        judgement(["y"], (_SHARES,), labels, Wish(), made_up=False, places=places)


@pytest.mark.parametrize("told", [(_SHARES,), (_CLASSES + 1, _SHARES)])
def test_numbers_are_the_classes_that_the_source_knows(told: tuple[np.ndarray, ...]) -> None:
    names = ["label", "probabilities"][-len(told) :]

    def judged(labels: np.ndarray) -> Judgement:
        return judgement(names, told, labels, Wish(), made_up=False, classes=(1, 2, 3))

    assert judged(_CLASSES + 1).compare(told, told).reference == 1.0
    assert judged(_ONE_HOT).compare(told, told).reference == 1.0
    with pytest.raises(DataError, match=r"label 0 in held-out row .* are 1, 2, 3"):
        judged(_CLASSES)


def test_texts_are_the_classes_that_the_source_knows() -> None:
    classes = ("c", "b", "a")
    turned = _SHARES[:, ::-1]
    judged = judgement(["y"], (turned,), _NAMES, Wish(), made_up=False, classes=classes)
    assert judged.compare((turned,), (turned,)).reference == 1.0
    other = np.where(np.arange(_ROWS) == 3, "z", _NAMES)
    with pytest.raises(DataError, match=r"label 'z' in held-out row 3 .* are 'c', 'b', 'a'"):
        judgement(["y"], (turned,), other, Wish(), made_up=False, classes=classes)


def test_classes_of_a_source_are_read_where_they_are_plain() -> None:
    assert known({"classes": "[0, 1]"}) == (0, 1)
    assert known({"classes": "[[0, 1], [0, 1]]"}) == known({}) == ()


def test_a_hit_that_cannot_be_missed_is_no_metric() -> None:
    with pytest.raises(DataError, match="'top-3' finds every label among 3 classes: K may be 2 at most"):
        _judged((_SHARES,), _CLASSES, metric="top-3")
    assert _judged((_SHARES,), _CLASSES, metric="top-2").first.metric == "top-2"


def test_the_output_that_lost_most_counts() -> None:
    worse = _LOGITS + _RANDOM.normal(size=_LOGITS.shape)
    quality = _judged((_VALUE, _LOGITS)).compare((_VALUE, _LOGITS), (_VALUE, worse))
    assert quality.output.startswith("y1, column ")
    assert not quality.passed


def _off(share: float, *, seldom: bool) -> np.ndarray:
    """Return values that lack a share of their variance, by the same errors or by few large ones."""
    squares = np.full(_ROWS, share * _VALUE.var())
    if seldom:
        squares = np.where(np.arange(_ROWS) % 16 == 0, 16 * squares, 0)
    return np.asarray(_VALUE + np.sqrt(squares)[:, None])


def test_every_output_has_to_pass() -> None:
    both = (_VALUE, _VALUE)
    judged = _judged(both, max_loss=0.1)
    lost, unsure = _off(0.11, seldom=False), _off(0.09, seldom=True)
    alone = [_judged((_VALUE,), max_loss=0.1).compare((_VALUE,), (other,)) for other in (lost, unsure)]
    assert [quality.passed for quality in alone] == [False, True]
    assert alone[0].high < alone[1].high
    for given, output in (((lost, unsure), "y0"), ((unsure, lost), "y1")):
        quality = judged.compare(both, given)
        assert (quality.output, quality.passed) == (output, False)


def test_one_column_lost_is_not_outweighed() -> None:
    scaled = _LOGITS * np.array([1e6, 1, 1e-3])
    dead = scaled * [1, 1, 0]
    assert not _judged((scaled,)).compare((scaled,), (dead,)).passed
    for wishes in ({}, {"metric": "r2"}):
        quality = _judged((scaled,), scaled, **wishes).compare((scaled,), (dead,))
        assert (quality.passed, quality.output) == (False, "y0, column 2")


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


@pytest.mark.parametrize(
    ("answers", "threshold", "notes"),
    [
        (_SHARE, 0.5, []),
        (_VALUE, 0.0, ["output 'y0' was taken for a logit, since its values leave 0 to 1: above 0"]),
    ],
)
def test_one_score_is_a_probability_or_a_logit(
    answers: np.ndarray, threshold: float, notes: list[str]
) -> None:
    labels = (_VALUE[:, 0] > 0).astype(int)
    for metric in ("accuracy", "top-1", "f1", "agreement"):
        judged = _judged((answers,), labels if metric != "agreement" else None, metric=metric)
        assert (judged.first.metric, judged.first.threshold) == (metric, threshold)
        assert [note[: len(expected)] for note, expected in zip(judged.notes, notes, strict=True)] == notes
        assert judged.compare((answers,), (answers,)).reference == 1.0
    # FP32 decides, also for an artefact whose values happen to lie elsewhere.
    halved = np.where(answers > threshold, 0.4, answers)
    quality = judged.compare((answers,), (halved,))
    assert quality.candidate == (1.0 if threshold == 0 else np.mean(answers <= threshold))


def test_other_outputs_have_no_threshold() -> None:
    judged = [_judged((_SHARES,), _CLASSES), _judged((_VALUE,), _VALUE), _judged((_CLASSES,))]
    assert [one.first.threshold for one in judged] == [None, None, None]


@pytest.mark.parametrize("answers", [_SAME, _SAME + 1e-9 * _LOGITS, 0 * _SAME, np.zeros(_ROWS, np.int64)])
@pytest.mark.parametrize("made_up", [True, False])
def test_answers_that_are_the_same_for_every_row_tell_nothing(answers: np.ndarray, made_up: bool) -> None:
    judged = _judged((answers,), made_up=made_up)
    assert not judged.tells
    assert judged.notes[-1].startswith("quality could not be judged, since the answers of FP32 in 'y0' are ")
    assert "--data" in judged.notes[-1]
    assert _judged((_LOGITS,), made_up=made_up).tells


def test_one_class_for_all_rows_is_judged_by_values() -> None:
    for wishes in ({}, {"metric": "agreement"}):
        judged = _judged((_ONE_CLASS,), **wishes)
        assert (judged.first.metric, judged.tells) == ("fidelity", True)
        assert "FP32 names one class in 'y0' for all rows" in judged.notes[0]
    assert not _judged((np.full(_ROWS, "a", object),)).tells
    assert not _judged((_ONE_CLASS[:1].repeat(_ROWS, 0),)).tells


@pytest.mark.parametrize(
    ("answers", "labels", "metric", "shown"),
    [
        (_SHARES, np.full(_ROWS, 1), "auc", "they hold one class only, of which AUC is undefined"),
        (_SHARE, np.full(_ROWS, 0), "auc", "they hold one class only, of which AUC is undefined"),
        (_SHARES, np.full(_ROWS, 1), "accuracy", "they are the same for every row"),
        (_VALUE, np.full(_ROWS, 0.3), "rmse", "they are the same for every row"),
        (_VALUE, np.full(_ROWS, 0.3), "r2", "they are the same for every row"),
        (_LOGITS, _LOGITS * [1, 1, 0], "rmse", "in column 2 they are the same for every row"),
        (
            _LOGITS,
            _LOGITS * [1, -1, 1],
            "r2",
            "in column 1 its answers are no nearer to them than their mean",
        ),
    ],
)
def test_labels_that_do_not_vary_are_told_and_likeness_is_judged(
    answers: np.ndarray, labels: np.ndarray, metric: str, shown: str
) -> None:
    judged = _judged((answers,), labels, metric=metric)
    assert judged.first.metric == ("agreement" if metric == "accuracy" else "fidelity")
    assert f"better than guessing ({shown}" in judged.notes[0]
    assert judged.tells
    assert judged.compare((answers,), (answers,)).passed


@pytest.mark.parametrize(
    ("answers", "labels", "metric"),
    [(_SHARES, _CLASSES, "auc"), (_LOGITS, None, ""), (_VALUE, _VALUE, "")],
)
def test_an_artefact_is_chosen_and_judged_by_different_rows(
    answers: np.ndarray, labels: np.ndarray | None, metric: str
) -> None:
    answers = answers.copy()
    answers[:5] = np.nan
    judged = _judged((answers,), labels, metric=metric)
    parts = judged.divided(_ROWS)
    assert parts is not None
    choosing, judging = parts
    assert judged.rows is not None
    assert choosing.rows is not None
    assert judging.rows is not None
    assert not np.any(choosing.rows & judging.rows)
    assert np.array_equal(choosing.rows | judging.rows, judged.rows)
    assert [part.compare((answers,), (answers,)).rows for part in parts] == [65, 130]
    for part in parts:
        assert (
            part.first.labels is None
            or labels is None
            or np.array_equal(part.first.labels, part.seen(labels))
        )


@pytest.mark.parametrize("count", [3, 6, 9, 12, 30])
def test_each_class_is_divided_by_itself(count: int) -> None:
    rare = np.where(np.arange(_ROWS) < count, 1, 0)
    scores = np.where(rare == 1, 0.9, _SHARE[:, 0] / 2)
    parts = _judged((scores,), rare, metric="auc").divided(_ROWS)
    assert parts is not None
    assert [np.count_nonzero(part.first.labels) for part in parts] == [count // 3, count - count // 3]


def test_without_rows_or_classes_for_both_parts_there_are_none() -> None:
    rarest = np.where(np.arange(_ROWS) < 1, 1, 0)
    assert Judgement((Criterion(0, "y", "auc", rarest),), 0.01).divided(_ROWS) is None
    assert Judgement((Criterion(0, "y", "fidelity"),), 0.01).divided(2) is None


@pytest.mark.parametrize(
    ("answers", "labels", "metric", "instead"),
    [
        (_SHARES, _CLASSES, "accuracy", "agreement"),
        (_SHARES, _CLASSES, "f1", "agreement"),
        (_SHARES, _CLASSES, "top-2", "agreement"),
        (_SHARES, _CLASSES, "auc", "fidelity"),
        (_VALUE, _VALUE, "rmse", "fidelity"),
        (_VALUE, _VALUE, "r2", "fidelity"),
    ],
)
def test_labels_of_other_rows_pass_no_ruined_artefact(
    answers: np.ndarray, labels: np.ndarray, metric: str, instead: str
) -> None:
    assert _judged((answers,), labels, metric=metric).first.metric == metric
    judged = _judged((answers,), labels[_OTHERS], metric=metric)
    assert judged.first.metric == instead
    assert "does not show to be better than guessing" in judged.notes[0]
    assert judged.compare((answers,), (answers,)).passed
    assert not judged.compare((answers,), (answers[_OTHERS],)).passed


def test_rows_without_an_answer_are_left_out_and_told() -> None:
    answers = _LOGITS.copy()
    answers[[3, 5]] = np.nan
    answers[7, 1] = -np.inf
    for labels in (_CLASSES, None):
        judged = judgement(["y"], (answers,), labels, Wish(), made_up=False, places=("row 9",) * _ROWS)
        assert judged.compare((answers,), (answers,)).rows == _ROWS - 2
        assert judged.compare((answers,), (answers,)).passed
        assert judged.notes[0].startswith("2 of 200 held-out rows were not judged")
        assert judged.notes[0].endswith("the first is row 9")
    with pytest.raises(DataError, match=r"answers every row .* with NaN or infinity"):
        _judged((np.full_like(answers, np.nan),))


@pytest.mark.parametrize(
    ("answers", "labels", "wishes", "complaint"),
    [
        ((_SHARES,), np.where(_CLASSES == 2, 5, 1), {}, "label 5 in held-out row .* are 0 to 2"),
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
