"""Whether labels tell a good model from one that guesses: else they tell no artefact from a ruined one."""

from __future__ import annotations

import math
import statistics
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import metrics
from headrace_engines.metrics import ACCURACY, AUC, F1, R2

_DEVIATIONS: Final = statistics.NormalDist().inv_cdf(0.95)
"""What a model has to be better by, in standard errors: luck alone is behind it in one of twenty."""


def no_better(metric: str, answers: NDArray[Any], labels: NDArray[Any]) -> str:
    """Return what shows that answers are no better than guesses by a metric with labels; "" if they are.

    A guess names the most frequent classes, or the mean of the values.
    """
    if metric in metrics.REGRESSING:
        explained = metrics.plain(metrics.scorer(R2, answers, labels), len(labels))
        return (
            "" if explained > 0 else f"its answers are no nearer to them than their mean: r2 {explained:.3f}"
        )
    _, counts = np.unique(labels.astype(str), return_counts=True)
    if metric == AUC:
        area = metrics.plain(metrics.scorer(AUC, answers, labels), len(labels))
        error = math.sqrt(1 / (12 * counts.min()))
        return "" if area - _DEVIATIONS * error > 0.5 else f"its AUC is {area:.3f}, and that of chance 0.5"
    right = metrics.hits(ACCURACY if metric == F1 else metric, answers, labels)
    if right is None:
        return ""
    share, most = float(right.mean()), max(metrics.top_k(metric), 1)
    guessed = float(np.sort(counts)[-most:].sum()) / len(labels)
    error = math.sqrt(share * (1 - share) / len(labels))
    if share - _DEVIATIONS * error > guessed:
        return ""
    return f"it is right about {share:.1%} of the rows, and the most frequent labels alone are {guessed:.1%}"
