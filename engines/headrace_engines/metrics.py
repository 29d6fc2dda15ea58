"""How good answers are: the metrics of a task, each as a figure for any weighting of the rows.

A metric is first bound to one model's answers (`scorer`), which leaves a function from weights of
the rows to the metric's value. With a weight of 1 for every row that is the metric as people know it;
with the draws of a bootstrap as weights it is the metric's distribution, without computing anything
about a row twice. Arrays hold a row a sample; `weights` is (draws, rows), values are (draws,).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
Scorer = Callable[[Weights], NDArray[np.float64]]

ACCURACY: Final = "accuracy"
F1: Final = "f1"
AUC: Final = "auc"
RMSE: Final = "rmse"
R2: Final = "r2"
AGREEMENT: Final = "agreement"
FIDELITY: Final = "fidelity"
NAMES: Final = (ACCURACY, "top-K", F1, AUC, RMSE, R2, AGREEMENT, FIDELITY)
"""What can be asked for; K is a number."""

CLASSIFYING: Final = frozenset({ACCURACY, F1, AUC})
REGRESSING: Final = frozenset({RMSE, R2})

_TOP: Final = re.compile(r"top-([1-9][0-9]*)")


def top_k(name: str) -> int:
    """Return K of a metric "top-K"; 0 for another."""
    match = _TOP.fullmatch(name)
    return int(match[1]) if match else 0


def is_known(name: str) -> bool:
    """Whether a metric has this name."""
    return name in NAMES[2:] or name == ACCURACY or top_k(name) > 0


def needs_labels(name: str) -> bool:
    """Whether the metric compares with what is true; else with what another model answers."""
    return name not in (AGREEMENT, FIDELITY)


def hits(name: str, answers: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Tell of each row whether the answer is right; None for metrics that are no share of right rows.

    `answers` are scores of classes (rows, classes), one probability (rows,) or (rows, 1), or classes;
    `truth` are classes (rows,), for the agreement the other model's answers.
    """
    if name == AGREEMENT:
        return np.asarray(classes(answers) == classes(truth))
    if name == ACCURACY:
        return np.asarray(classes(answers) == truth)
    if k := top_k(name):
        places = min(k, answers.shape[-1])
        best = np.argpartition(-answers, places - 1, axis=-1)[:, :places]
        return np.asarray((best == truth[:, None]).any(axis=1))
    return None


def classes(answers: NDArray[Any]) -> NDArray[Any]:
    """Return the class that each row was answered with."""
    if answers.dtype.kind != "f":
        return answers.reshape(len(answers), -1)[:, 0]
    if answers.ndim == 1 or answers.shape[-1] == 1:
        return np.asarray(answers.reshape(len(answers), -1)[:, 0] > 0.5, np.int64)
    return np.asarray(answers.argmax(axis=-1))


def scorer(name: str, answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    """Bind a metric to answers; raises ValueError for an unknown one."""
    right = hits(name, answers, truth)
    if right is not None:
        return _mean(right.astype(np.float64))
    bind: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], Scorer]] = {
        F1: _f1, AUC: _auc, RMSE: _rmse, R2: _r2, FIDELITY: _fidelity,
    }  # fmt: skip
    if name not in bind:
        raise ValueError(f"unknown metric {name!r}; known are {', '.join(NAMES)}")
    return bind[name](answers, truth)


def plain(score: Scorer, rows: int) -> float:
    """Return the metric's value on all rows alike."""
    return float(score(np.ones((1, rows)))[0])


def row_errors(answers: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Return (rows,): the mean squared error of each row relative to the reference's own variance.

    The mean over all outputs of floating point; 1 is as bad as answering the mean to everything.
    """
    errors = [_relative(*pair) for pair in zip(answers, reference, strict=True) if pair[1].dtype.kind == "f"]
    if not errors:
        raise ValueError("the model has no output of floating point")
    return np.asarray(np.mean(errors, axis=0))


def sqnr_db(errors: NDArray[np.float64]) -> float:
    """Return the ratio of signal to quantisation noise in decibels, from `row_errors`; 200 at most."""
    return min(-10 * math.log10(max(float(errors.mean()), 1e-20)), 200.0)


def _relative(answers: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    got, expected = (_matrix(array) for array in (answers, reference))
    finite = np.where(np.isfinite(expected), expected, 0.0)
    power = float(finite.var(axis=0).mean()) or float((finite**2).mean()) or 1.0
    # The same infinity in both, of which masks are made, is no difference.
    both = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(both, 0.0, got - expected)
    return np.asarray((difference**2).mean(axis=1) / power)


def _matrix(array: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(array, np.float64).reshape(len(array), -1)


def _mean(values: NDArray[np.float64]) -> Scorer:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _fidelity(answers: NDArray[Any], reference: NDArray[Any]) -> Scorer:
    return _mean(1 - _relative(answers, reference))


def _squares(answers: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(((_matrix(answers) - _matrix(truth)) ** 2).mean(axis=1))


def _rmse(answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    mean = _mean(_squares(answers, truth))
    return lambda weights: np.sqrt(mean(weights))


def _r2(answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    error, true = _mean(_squares(answers, truth)), _matrix(truth)

    def score(weights: Weights) -> NDArray[np.float64]:
        share = weights / weights.sum(axis=1, keepdims=True)
        variance = (share @ true**2 - (share @ true) ** 2).mean(axis=1)
        return np.asarray(1 - error(weights) / np.maximum(variance, np.finfo(np.float64).tiny))

    return score


def _f1(answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    """Return the mean of the classes' F1; a class that a draw neither holds nor names does not count."""
    given = classes(answers)
    kinds = np.unique(np.concatenate([given, truth]))
    named, held = ((array[:, None] == kinds).astype(np.float64) for array in (given, truth))

    def score(weights: Weights) -> NDArray[np.float64]:
        both, either = weights @ (named * held), weights @ (named + held)
        each = np.divide(2 * both, either, out=np.full_like(both, np.nan), where=either > 0)
        return np.asarray(np.nanmean(each, axis=1))

    return score


def _auc(answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    """Return the area under the ROC curve: of class 1 if there are two, else each against the rest."""
    scores = _matrix(answers)
    if scores.shape[1] <= 2:
        return _binary_auc(scores[:, -1], truth == 1)
    present = [kind for kind in range(scores.shape[1]) if 0 < np.count_nonzero(truth == kind) < len(truth)]
    each = [_binary_auc(scores[:, kind], truth == kind) for kind in present]
    return lambda weights: np.mean([score(weights) for score in each], axis=0)


def _binary_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Scorer:
    order = np.argsort(scores, kind="stable")
    is_positive = positive[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0)

    def score(weights: Weights) -> NDArray[np.float64]:
        ordered = weights[:, order]
        # Rows of equal scores count as one step of the curve.
        wins = np.add.reduceat(ordered * is_positive, starts, axis=1)
        losses = np.add.reduceat(ordered * (1 - is_positive), starts, axis=1)
        below = np.cumsum(losses, axis=1) - losses / 2
        pairs = wins.sum(axis=1) * losses.sum(axis=1)
        area = np.full(len(weights), 0.5)
        np.divide((wins * below).sum(axis=1), pairs, out=area, where=pairs > 0)
        return area

    return score
