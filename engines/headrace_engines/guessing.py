"""Whether labels tell a good model from one that guesses: else they tell no artefact from a ruined one."""

from __future__ import annotations

import math
import statistics
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import metrics, outputs
from headrace_engines.metrics import ACCURACY, AUC, F1, R2

_DEVIATIONS: Final = statistics.NormalDist().inv_cdf(0.95)
"""What a model has to be better by, in standard errors: luck alone is behind it in one of twenty."""


def no_better(metric: str, answers: NDArray[Any], labels: NDArray[Any]) -> str:
    """Return what shows that answers are no better than guesses by a metric with labels; "" if they are.

    A guess names the most frequent classes, or the mean of the values. Of several columns each has to be
    better, since each is judged.
    """
    if metric in metrics.REGRESSING:
        return _no_better_values(answers, labels)
    _, counts = np.unique(labels.astype(str), return_counts=True)
    if metric == AUC:
        if len(counts) < 2:
            return "they hold one class only, of which AUC is undefined"
        area = float(metrics.plain(metrics.scorer(AUC, answers, labels), len(labels))[0])
        error = math.sqrt(1 / (12 * counts.min()))
        return "" if area - _DEVIATIONS * error > 0.5 else f"its AUC is {area:.3f}, and that of chance 0.5"
    right = metrics.hits(ACCURACY if metric == F1 else metric, answers, labels)
    if right is None:
        return ""
    if len(counts) < 2:
        return "they are the same for every row"
    share, most = float(right.mean()), max(metrics.top_k(metric), 1)
    guessed = float(np.sort(counts)[-most:].sum()) / len(labels)
    error = math.sqrt(share * (1 - share) / len(labels))
    if share - _DEVIATIONS * error > guessed:
        return ""
    return f"it is right about {share:.1%} of the rows, and the most frequent labels alone are {guessed:.1%}"


def _no_better_values(answers: NDArray[Any], labels: NDArray[Any]) -> str:
    values = np.asarray(labels, np.float64).reshape(len(labels), -1)
    explained = metrics.plain(metrics.scorer(R2, answers, labels), len(labels))
    for column, share in enumerate(explained):
        where = f"in column {column} " if values.shape[1] > 1 else ""
        if not outputs.differ(values[:, column]):
            return f"{where}they are the same for every row"
        if not share > 0:
            return f"{where}its answers are no nearer to them than their mean: r2 {share:.3f}"
    return ""
