from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as known

from headrace_engines import metrics

_RANDOM = np.random.default_rng(0)
_LABELS = _RANDOM.integers(4, size=300)
_SCORES = _RANDOM.random((300, 4)) + 0.5 * np.eye(4)[_LABELS]
_SHARES = _SCORES / _SCORES.sum(axis=1, keepdims=True)
_BINARY = (_LABELS > 1).astype(np.int64)
_PROBABILITY = np.clip(_RANDOM.normal(0.4 + 0.2 * _BINARY, 0.2), 0, 1).round(1)
_BOTH = np.stack([1 - _PROBABILITY, _PROBABILITY], 1)
_VALUES = _RANDOM.normal(3, 2, (300, 2))
_NEAR = _VALUES + _RANDOM.normal(0, 0.5, (300, 2))


def _plain(name: str, answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return metrics.plain(metrics.scorer(name, answers, truth), len(truth))


@pytest.mark.parametrize(
    ("name", "answers", "truth", "expected"),
    [
        ("accuracy", _SHARES, _LABELS, known.accuracy_score(_LABELS, _SHARES.argmax(1))),
        ("accuracy", _PROBABILITY, _BINARY, known.accuracy_score(_BINARY, _PROBABILITY > 0.5)),
        ("accuracy", _PROBABILITY[:, None], _BINARY, known.accuracy_score(_BINARY, _PROBABILITY > 0.5)),
        ("accuracy", _LABELS[::-1], _LABELS, known.accuracy_score(_LABELS, _LABELS[::-1])),
        ("top-2", _SHARES, _LABELS, known.top_k_accuracy_score(_LABELS, _SHARES, k=2)),
        ("top-9", _SHARES, _LABELS, 1.0),
        ("f1", _SHARES, _LABELS, known.f1_score(_LABELS, _SHARES.argmax(1), average="macro")),
        ("auc", _PROBABILITY, _BINARY, known.roc_auc_score(_BINARY, _PROBABILITY)),
        ("auc", _BOTH, _BINARY, known.roc_auc_score(_BINARY, _PROBABILITY)),
        ("auc", _SHARES, _LABELS, known.roc_auc_score(_LABELS, _SHARES, multi_class="ovr")),
        ("rmse", _NEAR, _VALUES, known.mean_squared_error(_VALUES, _NEAR, multioutput="raw_values") ** 0.5),
        ("rmse", _NEAR[:, :1], _VALUES[:, 0], known.mean_squared_error(_VALUES[:, 0], _NEAR[:, 0]) ** 0.5),
        ("r2", _NEAR[:, :1], _VALUES[:, 0], known.r2_score(_VALUES[:, 0], _NEAR[:, 0])),
        ("r2", _NEAR, _VALUES, known.r2_score(_VALUES, _NEAR, multioutput="raw_values")),
        ("agreement", _SHARES, _SCORES, 1.0),
    ],
)  # fmt: skip
def test_metrics_are_those_that_people_know(
    name: str, answers: np.ndarray, truth: np.ndarray, expected: float | np.ndarray
) -> None:
    assert _plain(name, answers, truth) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["accuracy", "top-2", "f1", "auc"])
@given(st.integers(0, 2**32 - 1))
def test_a_weight_of_n_is_a_row_n_times(name: str, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(3, size=len(_LABELS)) + (np.arange(len(_LABELS)) < 8)
    rows = np.repeat(np.arange(len(_LABELS)), weights)
    weighted = metrics.scorer(name, _SHARES, _LABELS)(weights[None].astype(float))[0]
    assert weighted == pytest.approx(_plain(name, _SHARES[rows], _LABELS[rows]))


@pytest.mark.parametrize("name", ["rmse", "r2"])
def test_a_weight_of_n_is_a_value_n_times(name: str) -> None:
    weights = np.arange(len(_VALUES)) % 4
    rows = np.repeat(np.arange(len(_VALUES)), weights)
    weighted = metrics.scorer(name, _NEAR, _VALUES)(weights[None].astype(float))[0]
    assert weighted == pytest.approx(_plain(name, _NEAR[rows], _VALUES[rows]))


def test_fidelity_is_the_variance_that_is_kept() -> None:
    assert _plain("fidelity", _VALUES, _VALUES).tolist() == [1.0, 1.0]
    assert _plain("fidelity", np.broadcast_to(_VALUES.mean(0), _VALUES.shape), _VALUES) == pytest.approx(0.0)
    constant = np.full((5, 3), 2.0)
    assert _plain("fidelity", constant * 1.1, constant) == pytest.approx(0.99)
    assert _plain("fidelity", constant * 0, constant * 0).tolist() == [1.0] * 3


_SCALED = np.stack([1e6 * _VALUES[:, 0], 1e-3 * _VALUES[:, 1]], 1)
_BOXES = np.moveaxis(np.stack([_SCALED] * 5, 1), 1, 2)


_LOST = -((_VALUES[:, 1].mean() / _VALUES[:, 1].std()) ** 2)


@pytest.mark.parametrize(
    ("name", "whole", "dead", "expected", "part"),
    [
        ("rmse", _SCALED, np.s_[:, 1], [0, (_SCALED[:, 1] ** 2).mean() ** 0.5], "column 1"),
        ("r2", _SCALED, np.s_[:, 1], [1, _LOST], "column 1"),
        ("fidelity", _SCALED, np.s_[:, 1], [1, _LOST], "column 1"),
        ("fidelity", _BOXES, np.s_[:, 1], [1, _LOST], "place 1 of axis 1"),
        ("fidelity", np.moveaxis(_BOXES, 1, 2), np.s_[:, :, 1], [1, _LOST], "place 1 of axis 2"),
    ],
)
def test_each_column_has_a_scale_of_its_own(
    name: str, whole: np.ndarray, dead: tuple[slice | int, ...], expected: list[float], part: str
) -> None:
    candidate = whole.copy()
    candidate[dead] = 0
    assert _plain(name, candidate, whole) == pytest.approx(expected)
    assert metrics.part_name(name, whole, 1) == part
    assert metrics.part_name(name, whole[..., :1].reshape(len(whole), -1)[:, :1], 0) == ""


def test_a_column_that_does_not_vary_is_compared_by_its_size_or_that_of_all() -> None:
    noise = 1e-7 * _RANDOM.normal(size=300)
    reference = np.stack([_VALUES[:, 0], 5 + noise, 0 * noise], 1)
    size = (reference**2).mean()
    candidate = reference + np.array([0, 0.5, 0.5])
    assert _plain("fidelity", candidate, reference) == pytest.approx([1, 1 - 0.01, 1 - 0.25 / size], abs=1e-6)


def test_a_class_that_is_never_likely_does_not_decide() -> None:
    shares = np.stack([_PROBABILITY * 0.999, 0.999 - _PROBABILITY * 0.999, 0.001 + 0 * _PROBABILITY], 1)
    shares[::30] += [[-1e-3, 0, 1e-3]]
    rounded = np.round(np.clip(shares, 0, 1) * 255) / 255
    assert len(_plain("fidelity", rounded, np.clip(shares, 0, 1))) == 1
    assert _plain("fidelity", rounded, np.clip(shares, 0, 1)) > 0.99
    pixels = np.repeat(np.clip(shares, 0, 1)[:, :, None], 7, 2)
    assert len(_plain("fidelity", pixels, pixels)) == 1
    assert metrics.part_name("fidelity", pixels, 0) == ""


def test_the_numbers_of_a_wide_embedding_are_compared_together() -> None:
    wide = _RANDOM.normal(size=(50, 101))
    assert len(_plain("fidelity", wide, wide)) == 1
    assert len(_plain("fidelity", wide[:, 1:], wide[:, 1:])) == 100
    assert len(_plain("rmse", wide, wide)) == 101


def test_errors_of_rows_come_to_decibels() -> None:
    noise = metrics.row_errors([_VALUES + 0.1 * _VALUES.std(axis=0), _LABELS], [_VALUES, _LABELS])
    assert metrics.sqnr_db(noise) == pytest.approx(20)
    assert metrics.sqnr_db(metrics.row_errors([_VALUES], [_VALUES])) == 200
    with pytest.raises(ValueError, match="no output of floating point"):
        metrics.row_errors([_LABELS], [_LABELS])


def test_errors_of_rows_are_those_of_the_farthest_column() -> None:
    near = _SCALED * [1, 1.1]
    expected = (0.1 * _VALUES[:, 1]) ** 2 / _VALUES[:, 1].var()
    assert metrics.row_errors([_VALUES, near], [_VALUES, _SCALED]) == pytest.approx(expected)


def test_one_score_names_class_1_above_the_threshold() -> None:
    logits = np.array([[-2.0], [0.3], [0.7], [5.0]])
    truth = np.array([0, 1, 1, 1])
    for name, at_half in (("accuracy", 0.75), ("top-1", 0.75), ("f1", (0.8 + 2 / 3) / 2)):
        by = [metrics.scorer(name, logits, truth, threshold) for threshold in (0.5, metrics.LOGIT_THRESHOLD)]
        assert [float(metrics.plain(score, 4)[0]) for score in by] == pytest.approx([at_half, 1.0])
    assert metrics.classes(logits[:, 0], 0.0).tolist() == truth.tolist()


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("kind", [0, 1])
def test_without_a_second_class_there_is_no_auc(columns: int, kind: int) -> None:
    with pytest.raises(ValueError, match="the labels hold one class only: AUC is undefined"):
        metrics.scorer("auc", _SHARES[:, :columns], np.full(300, kind))


def _drawn(name: str, answers: np.ndarray, truth: np.ndarray, rows: list[int]) -> float:
    weights = np.bincount(rows, minlength=len(truth))[None].astype(float)
    return float(metrics.scorer(name, answers, truth)(weights)[0, 0])


def test_a_draw_without_pairs_tells_nothing_of_auc() -> None:
    truth = np.array([0, 0, 1])
    scores = np.array([[0.1], [0.2], [0.9]])
    assert _drawn("auc", scores, truth, [0, 1, 1]) == _drawn("auc", -scores, truth, [2, 2, 2]) == 0.5


def test_a_class_that_a_draw_does_not_hold_is_no_part_of_its_f1() -> None:
    answers = truth = np.array([0, 1, 2])
    assert _drawn("f1", answers, truth, [0, 1, 1]) == 1.0
    assert _drawn("f1", np.array([0, 1, 1]), truth, [0, 0, 0]) == 1.0


def test_a_draw_in_which_labels_do_not_vary_tells_nothing_of_r2() -> None:
    truth = np.array([[3.0], [3.0], [9.0]])
    assert _drawn("r2", truth + 1, truth, [0, 1, 1]) == 0.0
    assert _drawn("r2", truth, truth, [0, 1, 2]) == 1.0


@pytest.mark.parametrize(
    ("name", "known_name"),
    [
        ("accuracy", True),
        ("top-5", True),
        ("top-0", False),
        ("top-K", False),
        ("f2", False),
        ("fidelity", True),
    ],
)
def test_names_are_known(name: str, known_name: bool) -> None:
    assert metrics.is_known(name) == known_name


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown metric 'mape'; known are accuracy, top-K"):
        metrics.scorer("mape", _VALUES, _VALUES)


def test_classes_may_be_texts() -> None:
    answers = np.array(["setosa", "virginica"], object)
    assert metrics.hits("accuracy", answers, np.array(["setosa", "setosa"], object)) is not None
    assert _plain("accuracy", answers, np.array(["setosa", "setosa"], object)) == 0.5
    assert _plain("f1", answers, answers) == 1.0
