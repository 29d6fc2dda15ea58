"""How good answers are: the metrics of a task, each as a figure for any weighting of the rows.

A metric is first bound to one model's answers (`scorer`), which leaves a function from weights of
the rows to the metric's value. With a weight of 1 for every row that is the metric as people know it;
with the draws of a bootstrap as weights it is the metric's distribution, without computing anything
about a row twice. Arrays hold a row a sample; `weights` is (draws, rows), values are (draws, parts).

Most metrics have one part. Those of values have one for each column, since a mean over columns would be
that of the largest: of a prediction in millions beside one in thousandths, the second could be lost unseen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import outputs

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

PROBABILITY_THRESHOLD: Final = 0.5
LOGIT_THRESHOLD: Final = 0.0
"""Above which one score of a row names class 1: a probability, and a probability's logit."""

_MOST_COLUMNS: Final = 100
"""More are the numbers of an embedding, or the scores of many classes: none of them is read by itself."""

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


def hits(
    name: str, answers: NDArray[Any], truth: NDArray[Any], threshold: float = PROBABILITY_THRESHOLD
) -> NDArray[np.bool_] | None:
    """Tell of each row whether the answer is right; None for metrics that are no share of right rows.

    `answers` are scores of classes (rows, classes), one score (rows,) or (rows, 1) that names class 1 above
    the threshold, or classes; `truth` are classes (rows,), for the agreement the other model's answers.
    """
    if name == AGREEMENT:
        return np.asarray(classes(answers, threshold) == classes(truth, threshold))
    k = top_k(name)
    if name == ACCURACY or (k and outputs.width(answers) == 1):
        return np.asarray(classes(answers, threshold) == truth)
    if k:
        places = min(k, answers.shape[-1])
        best = np.argpartition(-answers, places - 1, axis=-1)[:, :places]
        return np.asarray((best == truth[:, None]).any(axis=1))
    return None


def classes(answers: NDArray[Any], threshold: float = PROBABILITY_THRESHOLD) -> NDArray[Any]:
    """Return the class that each row is answered with; one score of a row names class 1 above `threshold`."""
    if answers.dtype.kind != "f":
        return answers.reshape(len(answers), -1)[:, 0]
    if answers.ndim == 1 or answers.shape[-1] == 1:
        return np.asarray(answers.reshape(len(answers), -1)[:, 0] > threshold, np.int64)
    return np.asarray(answers.argmax(axis=-1))


def scorer(
    name: str, answers: NDArray[Any], truth: NDArray[Any], threshold: float = PROBABILITY_THRESHOLD
) -> Scorer:
    """Bind a metric to answers; raises ValueError for an unknown one, or where it is undefined."""
    right = hits(name, answers, truth, threshold)
    if right is not None:
        return _mean(right[:, None].astype(np.float64))
    if name == F1:
        return _f1(classes(answers, threshold), truth)
    bind: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], Scorer]] = {
        AUC: _auc, RMSE: _rmse, R2: _r2, FIDELITY: _fidelity,
    }  # fmt: skip
    if name not in bind:
        raise ValueError(f"unknown metric {name!r}; known are {', '.join(NAMES)}")
    return bind[name](answers, truth)


def plain(score: Scorer, rows: int) -> NDArray[np.float64]:
    """Return the metric's value (parts,) on all rows alike."""
    return np.asarray(score(np.ones((1, rows)))[0])


def part_name(name: str, reference: NDArray[Any], part: int) -> str:
    """Say which of a metric's parts this is, counted from 0; "" where it has only one."""
    if name in REGRESSING:
        return f"column {part}" if outputs.width(reference) > 1 else ""
    axis = _column_axis(reference) if name == FIDELITY else None
    if axis is None:
        return ""
    return f"column {part}" if reference.ndim == 2 else f"place {part} of axis {axis}"


def row_errors(answers: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Return (rows,): the mean squared error of each row relative to the reference's own variance.

    It is that of the column, of all outputs of floating point, which is farthest from the reference on the
    whole; 1 is as bad as answering the mean to everything.
    """
    errors = [_relative(*pair) for pair in zip(answers, reference, strict=True) if pair[1].dtype.kind == "f"]
    if not errors:
        raise ValueError("the model has no output of floating point")
    columns = np.concatenate(errors, axis=1)
    return np.asarray(columns[:, columns.mean(axis=0).argmax()])


def sqnr_db(errors: NDArray[np.float64]) -> float:
    """Return the ratio of signal to quantisation noise in decibels, from `row_errors`; 200 at most."""
    return min(-10 * math.log10(max(float(errors.mean()), 1e-20)), 200.0)


def _column_axis(reference: NDArray[Any]) -> int | None:
    """Return the axis whose places are compared each by its own scale; None where a row is compared as one.

    Of a vector that is its only axis, of a larger row the shortest: the channels of a picture, or the
    numbers of each box that a detector finds, since what lies along the others are places of one kind.
    Probabilities of classes share a scale, and belong to one answer: a class that is never likely would
    else decide, by differences that nobody sees. So do rows of more columns than anybody reads one by one.
    """
    sizes = [(size, axis) for axis, size in enumerate(reference.shape) if axis > 0 and size > 1]
    if not sizes or min(sizes)[0] > _MOST_COLUMNS or outputs.are_distributions(reference, min(sizes)[1]):
        return None
    return min(sizes)[1]


def _relative(answers: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Return (rows, columns): squared errors in parts of the reference's variance in that column."""
    axis = _column_axis(reference)
    got, expected = (_in_columns(array, axis) for array in (answers, reference))
    power = _powers(np.where(np.isfinite(expected), expected, 0.0))
    # The same infinity in both, of which masks are made, is no difference.
    both = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(both, 0.0, got - expected)
    return np.asarray((difference**2).mean(axis=1) / power)


def _in_columns(array: NDArray[Any], axis: int | None) -> NDArray[np.float64]:
    """Return (rows, places, columns)."""
    values = np.asarray(array, np.float64)
    if axis is None:
        return values.reshape(len(values), -1, 1)
    return np.moveaxis(values, axis, -1).reshape(len(values), -1, values.shape[axis])


def _powers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (columns,): the variance of each; of one that does not vary, its size, or else that of all."""
    variances, squares = values.var(axis=0).mean(axis=0), (values**2).mean(axis=(0, 1))
    sizes = np.where(squares > 0, squares, squares.mean() or 1.0)
    return np.where(variances > outputs.ROUNDING**2 * squares, variances, sizes)


def _matrix(array: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(array, np.float64).reshape(len(array), -1)


def _mean(values: NDArray[np.float64]) -> Scorer:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1, keepdims=True))


def _fidelity(answers: NDArray[Any], reference: NDArray[Any]) -> Scorer:
    return _mean(1 - _relative(answers, reference))


def _squares(answers: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray((_matrix(answers) - _matrix(truth)) ** 2)


def _rmse(answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    mean = _mean(_squares(answers, truth))
    return lambda weights: np.sqrt(mean(weights))


def _r2(answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    """Return the share of the labels' variance that is explained; 0 in a draw in which these do not vary."""
    error, true = _mean(_squares(answers, truth)), _matrix(truth)
    true = true - true.mean(axis=0)
    least = outputs.ROUNDING**2 * (true**2).mean(axis=0)

    def score(weights: Weights) -> NDArray[np.float64]:
        share = weights / weights.sum(axis=1, keepdims=True)
        variance = share @ true**2 - (share @ true) ** 2
        unexplained = np.ones_like(variance)
        np.divide(error(weights), variance, out=unexplained, where=variance > least)
        return np.asarray(1 - unexplained)

    return score


def _f1(given: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    """Return the mean of the classes' F1; a class that a draw neither holds nor names does not count."""
    kinds = np.unique(np.concatenate([given, truth]))
    named, held = ((array[:, None] == kinds).astype(np.float64) for array in (given, truth))

    def score(weights: Weights) -> NDArray[np.float64]:
        both, either = weights @ (named * held), weights @ (named + held)
        each = np.divide(2 * both, either, out=np.full_like(both, np.nan), where=either > 0)
        return np.asarray(np.nanmean(each, axis=1, keepdims=True))

    return score


def _auc(answers: NDArray[Any], truth: NDArray[Any]) -> Scorer:
    """Return the area under the ROC curve: of class 1 if there are two, else each against the rest.

    Raises ValueError where the labels hold one class only, beside which nothing is told apart.
    """
    if len(np.unique(truth)) < 2:
        raise ValueError("the labels hold one class only: AUC is undefined")
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
        return area[:, None]

    return score
