"""Which task a model is for, as labels and outputs tell: the metric, and the output that it judges."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import class_labels, metrics, outputs
from headrace_engines.errors import DataError
from headrace_engines.metrics import ACCURACY, AGREEMENT, F1, FIDELITY, RMSE
from headrace_engines.outputs import Answers

CLASSIFICATION: Final = "classification"
REGRESSION: Final = "regression"
TASKS: Final = (CLASSIFICATION, REGRESSION)


def of_metric(metric: str) -> str:
    """Return the task of a metric that is for one alone; "" of another."""
    return REGRESSION if metric in metrics.REGRESSING else ""


def metric(answers: Answers, labels: NDArray[Any] | None, task: str, *, made_up: bool) -> str:
    """Return the metric that suits the task, which the labels and the outputs tell where nobody does."""
    floats = outputs.floats(answers)
    if labels is None:
        classifies = task == CLASSIFICATION or (not task and not made_up and outputs.tell_classes(answers))
        return AGREEMENT if classifies or not floats else FIDELITY
    if task:
        return ACCURACY if task == CLASSIFICATION else RMSE
    if not floats or labels.dtype.kind in "OUSb":
        return ACCURACY
    if labels.ndim > 1 and labels.shape[1] > 1:
        return RMSE
    if np.any(labels != np.round(labels)):
        return RMSE
    widest = max(outputs.width(answers[index]) for index in floats)
    if widest > 1:
        return ACCURACY
    is_binary = set(np.unique(labels)) <= {0, 1} and any(
        outputs.are_shares(answers[index]) or _are_logits(answers[index], labels) for index in floats
    )
    return ACCURACY if is_binary else RMSE


def _are_logits(array: NDArray[Any], labels: NDArray[Any]) -> bool:
    """Whether values are farther from labels of 0 and 1 than the mean of these: so they are none of them."""
    if outputs.width(array) != 1:
        return False
    values = np.asarray(array, np.float64).reshape(-1)
    given = np.isfinite(values)
    errors = (values - labels.reshape(-1))[given]
    return bool(errors.size and np.mean(errors**2) > np.var(labels))


def class_output(answers: Answers, metric: str, labels: NDArray[Any] | None = None) -> int:
    """Return the output that tells classes: the class itself where that is asked, else scores of classes."""
    told = [
        index
        for index, array in enumerate(answers)
        if outputs.are_classes(array)
        and (labels is None or class_labels.are_text(labels) == class_labels.are_text(array))
    ]
    scores = sorted(outputs.floats(answers), key=lambda index: outputs.width(answers[index]) < 2)
    found = told if metric in (ACCURACY, F1, AGREEMENT) else []
    found += [index for index in scores if outputs.width(answers[index]) > 0]
    if not found:
        raise DataError(f"no output tells classes in the way that metric {metric!r} needs")
    return found[0]


def value_output(answers: Answers, labels: NDArray[Any]) -> int:
    """Return the output with as many values a row as the labels have. Raises DataError if there is none."""
    wide = labels.shape[1] if labels.ndim > 1 else 1
    for index in outputs.floats(answers):
        if outputs.width(answers[index]) == wide:
            return index
    found = ", ".join(str(list(array.shape[1:])) for array in answers)
    raise DataError(f"the labels have {wide} value(s) a row, and the model's outputs are {found}")
