"""What a model's answers are judged by: which output, which metric, and what is right.

Where labels are given, that is the metric of their task. Without them the artefacts can only be
compared with the model in FP32: by the class that both name, where the output tells classes, else by how
much of the variance of the FP32 answers is kept. On made-up rows a class says nothing, since noise lies
near no model's data, so that there only the latter is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import gates, metrics
from headrace_engines.errors import DataError, GateError
from headrace_engines.gates import Quality
from headrace_engines.metrics import ACCURACY, AGREEMENT, F1, FIDELITY, RMSE

CLASSIFICATION: Final = "classification"
REGRESSION: Final = "regression"
TASKS: Final = (CLASSIFICATION, REGRESSION)

Answers = Sequence[NDArray[Any]]
"""One array per output of the model; axis 0 counts rows."""

_SUM_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for: "" or None for what the model and the labels suggest."""

    task: str = ""
    metric: str = ""
    max_loss: float | None = None

    def check(self) -> None:
        """Raise ValueError for a task, metric or loss that is none."""
        if self.task and self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; expected {' or '.join(TASKS)}")
        if self.metric and not metrics.is_known(self.metric):
            raise ValueError(f"unknown metric {self.metric!r}; expected one of {', '.join(metrics.NAMES)}")
        if self.max_loss is not None and not 0 < self.max_loss < 1:
            raise ValueError(f"a loss of {self.max_loss} at most: expected a share between 0 and 1, as 0.01")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outputs that are judged, by index and name, the metric, and the labels as that needs them."""

    metric: str
    outputs: tuple[tuple[int, str], ...]
    labels: NDArray[Any] | None
    max_loss: float

    def compare(self, reference: Answers, candidate: Answers) -> Quality:
        """Compare two models' answers to the same rows, on the output where most was lost.

        Raises GateError if the candidate's are no numbers where the reference's are.
        """
        for index, name in self.outputs:
            if reference[index].dtype.kind == "f" and not _as_finite(candidate[index], reference[index]):
                raise GateError(f"its answers in {name!r} are not numbers where those of FP32 are")
        compared = [
            gates.compare(self.metric, reference[index], candidate[index], self.labels, self.max_loss, name)
            for index, name in self.outputs
        ]
        return max(compared, key=lambda quality: quality.high)

    def is_no_better_than_guessing(self, answers: Answers) -> bool:
        """Whether naming the most frequent label would be right as often; False where that says nothing."""
        if self.metric != ACCURACY or self.labels is None:
            return False
        right = metrics.hits(ACCURACY, answers[self.outputs[0][0]], self.labels)
        _, counts = np.unique(self.labels.astype(str), return_counts=True)
        return (
            right is not None and len(counts) > 1 and float(right.mean()) <= counts.max() / len(self.labels)
        )


def judgement(
    names: Sequence[str], answers: Answers, labels: NDArray[Any] | None, wish: Wish, *, made_up: bool
) -> Judgement:
    """Decide how artefacts are judged, from what the FP32 model answered to the held-out rows.

    `names` are those of the outputs. Raises DataError if the labels do not fit the model or the metric.
    """
    max_loss = gates.MAX_LOSS if wish.max_loss is None else wish.max_loss
    metric = wish.metric or _metric(answers, labels, wish.task, made_up=made_up)
    if not metrics.needs_labels(metric):
        chosen = _floats(answers) if metric == FIDELITY else [_class_output(answers, metric)]
        return Judgement(metric, tuple((index, names[index]) for index in chosen), None, max_loss)
    if labels is None:
        raise DataError(f"metric {metric!r} needs labels, and none were given")
    classifies = metric not in metrics.REGRESSING
    index = _class_output(answers, metric, labels) if classifies else _value_output(answers, labels)
    fitted = (_class_labels if classifies else _values)(labels, answers[index], names[index])
    return Judgement(metric, ((index, names[index]),), fitted, max_loss)


def _as_finite(candidate: NDArray[Any], reference: NDArray[Any]) -> bool:
    return bool(np.all(np.isfinite(candidate) | ~np.isfinite(reference)))


def _metric(answers: Answers, labels: NDArray[Any] | None, task: str, *, made_up: bool) -> str:
    """Return the metric that suits the task, which the labels and the outputs tell where nobody does."""
    floats = _floats(answers)
    if labels is None:
        classifies = task == CLASSIFICATION or (not task and not made_up and _tells_classes(answers))
        return AGREEMENT if classifies or not floats else FIDELITY
    if task:
        return ACCURACY if task == CLASSIFICATION else RMSE
    if not floats or labels.dtype.kind in "OUSb":
        return ACCURACY
    if labels.ndim > 1 and labels.shape[1] > 1:
        return RMSE
    if np.any(labels != np.round(labels)):
        return RMSE
    widest = max(_width(answers[index]) for index in floats)
    if widest > 1:
        return ACCURACY
    is_binary = set(np.unique(labels)) <= {0, 1} and any(_is_share(answers[index]) for index in floats)
    return ACCURACY if is_binary else RMSE


def _floats(answers: Answers) -> list[int]:
    return [index for index, array in enumerate(answers) if array.dtype.kind == "f" and array.size]


def _width(array: NDArray[Any]) -> int:
    """Return the values of a row, 0 where a row is no vector."""
    if array.ndim == 1:
        return 1
    return int(array.shape[1]) if array.ndim == 2 else 0


def _is_share(array: NDArray[Any]) -> bool:
    return bool(np.all((array >= 0) & (array <= 1)))


def _tells_classes(answers: Answers) -> bool:
    """Whether an output is classes, or probabilities of several."""
    return any(
        (array.dtype.kind in "iuOUS" and _width(array) == 1)
        or (
            array.dtype.kind == "f"
            and _width(array) > 1
            and _is_share(array)
            and np.allclose(array.sum(axis=1), 1, atol=_SUM_TOLERANCE)
        )
        for array in answers
    )


def _class_output(answers: Answers, metric: str, labels: NDArray[Any] | None = None) -> int:
    """Return the output that tells classes: the class itself where that is asked, else scores of classes."""
    told = [
        index
        for index, array in enumerate(answers)
        if array.dtype.kind in "iuOUS"
        and _width(array) == 1
        and (labels is None or _is_text(labels) == _is_text(array))
    ]
    scores = sorted(_floats(answers), key=lambda index: _width(answers[index]) < 2)
    found = told if metric in (ACCURACY, F1, AGREEMENT) else []
    found += [index for index in scores if _width(answers[index]) > 0]
    if not found:
        raise DataError(f"no output tells classes in the way that metric {metric!r} needs")
    return found[0]


def _is_text(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "OUS"


def _value_output(answers: Answers, labels: NDArray[Any]) -> int:
    wide = labels.shape[1] if labels.ndim > 1 else 1
    for index in _floats(answers):
        if _width(answers[index]) == wide:
            return index
    found = ", ".join(str(list(array.shape[1:])) for array in answers)
    raise DataError(f"the labels have {wide} value(s) a row, and the model's outputs are {found}")


def _values(labels: NDArray[Any], answers: NDArray[Any], name: str) -> NDArray[np.float64]:
    try:
        values = labels.astype(np.float64)
    except ValueError as error:
        raise DataError(f"the labels are no numbers, which output {name!r} is: {error}") from error
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise DataError(f"{bad} labels are not finite numbers")
    return values.reshape(answers.shape)


def _class_labels(labels: NDArray[Any], answers: NDArray[Any], name: str) -> NDArray[Any]:
    """Return the labels as the output tells classes: its own values, or the places of scores."""
    if labels.ndim > 1:
        if labels.size != len(labels):
            raise DataError(f"the labels have shape {list(labels.shape[1:])} a row; expected one class")
        labels = labels.reshape(-1)
    if _is_text(answers):
        return np.array([_text(label) for label in labels], object)
    if answers.dtype.kind != "f":
        return labels
    count = max(_width(answers), 2)
    if _is_text(labels):
        return _places(labels, count, name)
    wrong = np.flatnonzero((labels < 0) | (labels >= count) | (labels != np.round(labels)))
    if not wrong.size:
        return labels.astype(np.int64)
    if len(np.unique(labels)) == count:
        return _places(labels, count, name)
    row = int(wrong[0])
    raise DataError(
        f"label {labels[row]} of held-out row {row} is out of range: "
        f"output {name!r} has classes 0 to {count - 1}"
    )


def _places(labels: NDArray[Any], count: int, name: str) -> NDArray[np.int64]:
    """Return the places of classes in their sorted order, in which scikit-learn's models score them."""
    comparable = np.array([_text(label) for label in labels]) if labels.dtype == object else labels
    kinds, places = np.unique(comparable, return_inverse=True)
    if len(kinds) != count:
        raise DataError(f"the labels are of {len(kinds)} classes, and output {name!r} has {count}")
    return places.astype(np.int64)


def _text(label: object) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)
