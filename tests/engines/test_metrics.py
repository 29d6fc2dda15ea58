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


def _plain(name: str, answers: np.ndarray, truth: np.ndarray) -> float:
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
        ("rmse", _NEAR, _VALUES, known.mean_squared_error(_VALUES, _NEAR) ** 0.5),
        ("rmse", _NEAR[:, :1], _VALUES[:, 0], known.mean_squared_error(_VALUES[:, 0], _NEAR[:, 0]) ** 0.5),
        ("r2", _NEAR[:, :1], _VALUES[:, 0], known.r2_score(_VALUES[:, 0], _NEAR[:, 0])),
        ("agreement", _SHARES, _SCORES, 1.0),
    ],
)  # fmt: skip
def test_metrics_are_those_that_people_know(
    name: str, answers: np.ndarray, truth: np.ndarray, expected: float
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
    assert _plain("fidelity", _VALUES, _VALUES) == 1.0
    assert _plain("fidelity", np.broadcast_to(_VALUES.mean(0), _VALUES.shape), _VALUES) == pytest.approx(0.0)
    constant = np.full((5, 3), 2.0)
    assert _plain("fidelity", constant * 1.1, constant) == pytest.approx(0.99)
    assert _plain("fidelity", constant * 0, constant * 0) == 1.0


def test_errors_of_rows_come_to_decibels() -> None:
    noise = metrics.row_errors([_VALUES + 0.1 * _VALUES.std(), _LABELS], [_VALUES, _LABELS])
    assert metrics.sqnr_db(noise) == pytest.approx(20, abs=0.5)
    assert metrics.sqnr_db(metrics.row_errors([_VALUES], [_VALUES])) == 200
    with pytest.raises(ValueError, match="no output of floating point"):
        metrics.row_errors([_LABELS], [_LABELS])


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
