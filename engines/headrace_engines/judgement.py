"""What a model's answers are judged by: which output, which metric, and what is right.

Where labels are given, that is the metric of their task. Without them the artefacts can only be
compared with the model in FP32: by the class that both name, where the output tells classes, else by how
much of the variance of the FP32 answers is kept. On made-up rows a class says nothing, since noise lies
near no model's data, so that there only the latter is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import class_labels, gates, guessing, metrics
from headrace_engines.data import missing
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
    """The outputs that are judged, by index and name, the metric, and the labels as that needs them.

    `rows` tells which of the held-out rows count, None that all do; `notes` what a person should know.
    """

    metric: str
    outputs: tuple[tuple[int, str], ...]
    labels: NDArray[Any] | None
    max_loss: float
    rows: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    def seen(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return those rows of an output that count."""
        return array if self.rows is None else array[self.rows]

    def compare(self, reference: Answers, candidate: Answers) -> Quality:
        """Compare two models' answers to the same rows, on the output where most was lost.

        Raises GateError if the candidate's are no numbers where the reference's are.
        """
        for index, name in self.outputs:
            if reference[index].dtype.kind == "f" and not _as_finite(candidate[index], reference[index]):
                raise GateError(f"its answers in {name!r} are not numbers where those of FP32 are")
        compared = [
            gates.compare(
                self.metric,
                self.seen(reference[index]),
                self.seen(candidate[index]),
                self.labels,
                self.max_loss,
                name,
            )
            for index, name in self.outputs
        ]
        return max(compared, key=lambda quality: quality.high)


def judgement(
    names: Sequence[str],
    answers: Answers,
    labels: NDArray[Any] | None,
    wish: Wish,
    *,
    made_up: bool,
    classes: class_labels.Classes = (),
    places: tuple[str, ...] = (),
) -> Judgement:
    """Decide how artefacts are judged, from what the FP32 model answered to the held-out rows.

    `names` are those of the outputs, `classes` those that the source knows, and `places` say where each row
    stands in its source. Labels that tell the model from no guess would tell nothing of an artefact: then
    its answers have to be like those of FP32. Raises DataError if the labels do not fit the model or the
    metric.
    """
    max_loss = gates.MAX_LOSS if wish.max_loss is None else wish.max_loss
    if labels is not None and REGRESSION not in (wish.task, _task_of(wish.metric)):
        widths = [_width(answers[index]) for index in _floats(answers)]
        labels = class_labels.from_one_hot(labels, widths, classes)
    metric = wish.metric or _metric(answers, labels, wish.task, made_up=made_up)
    if not metrics.needs_labels(metric):
        chosen = _floats(answers) if metric == FIDELITY else [_class_output(answers, metric)]
        outputs = tuple((index, names[index]) for index in chosen)
        return _of_answered(Judgement(metric, outputs, None, max_loss), answers, places)
    if labels is None:
        raise DataError(f"metric {metric!r} needs labels, and none were given")
    classifies = metric not in metrics.REGRESSING
    index = _class_output(answers, metric, labels) if classifies else _value_output(answers, labels)
    outputs = ((index, names[index]),)
    if classifies:
        _check_places(metric, answers[index])
        fitted = class_labels.fitted(labels, answers[index], names[index], classes, places)
    else:
        fitted = _values(labels, answers[index], names[index])
    return _trusted(_of_answered(Judgement(metric, outputs, fitted, max_loss), answers, places), answers)


def _task_of(metric: str) -> str:
    return REGRESSION if metric in metrics.REGRESSING else ""


def _check_places(metric: str, answers: NDArray[Any]) -> None:
    """Raise DataError for a top-K that every answer has."""
    count = max(_width(answers), 2)
    if metrics.top_k(metric) >= count:
        raise DataError(
            f"metric {metric!r} finds every label among {count} classes: K may be {count - 1} at most"
        )


def _of_answered(judged: Judgement, answers: Answers, places: tuple[str, ...]) -> Judgement:
    """Return the same for the rows that FP32 answers with numbers: no other tells anything of a loss."""
    answered = np.logical_and.reduce(
        [_is_answered(answers[index], judged.metric) for index, _ in judged.outputs]
    )
    without = np.flatnonzero(~answered)
    if not without.size:
        return judged
    place = missing.row(places, int(without[0]))
    if without.size == len(answered):
        raise DataError(
            f"the model answers every row that it could be judged by with NaN or infinity, as {place}: "
            "give rows with --data that it is made for"
        )
    note = (
        f"{without.size} of {len(answered)} held-out rows were not judged, since the model answers them "
        f"with NaN or infinity: the first is {place}"
    )
    labels = None if judged.labels is None else judged.labels[answered]
    return replace(judged, labels=labels, rows=answered, notes=(note,))


def _is_answered(array: NDArray[Any], metric: str) -> NDArray[np.bool_]:
    if array.dtype.kind != "f" or not array.size:
        return np.ones(len(array), bool)
    flat = array.reshape(len(array), -1)
    if metric in metrics.REGRESSING:
        return np.asarray(np.isfinite(flat).all(axis=1))
    return np.asarray(np.isfinite(flat).any(axis=1) & ~np.isnan(flat).any(axis=1))


def _trusted(judged: Judgement, answers: Answers) -> Judgement:
    """Return the same, or a judgement by likeness to FP32 where the labels show no model to be good."""
    if judged.labels is None:
        return judged
    index, _ = judged.outputs[0]
    shown = guessing.no_better(judged.metric, judged.seen(answers[index]), judged.labels)
    if not shown:
        return judged
    metric = FIDELITY if judged.metric in (*metrics.REGRESSING, metrics.AUC) else AGREEMENT
    note = (
        f"by these labels the model in FP32 does not show to be better than guessing ({shown}): artefacts "
        f"were judged by {metric} with FP32 instead; see whether the labels belong to these rows, and mean "
        "what the model's answers mean"
    )
    return replace(judged, metric=metric, labels=None, notes=(*judged.notes, note))


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
        and (labels is None or class_labels.are_text(labels) == class_labels.are_text(array))
    ]
    scores = sorted(_floats(answers), key=lambda index: _width(answers[index]) < 2)
    found = told if metric in (ACCURACY, F1, AGREEMENT) else []
    found += [index for index in scores if _width(answers[index]) > 0]
    if not found:
        raise DataError(f"no output tells classes in the way that metric {metric!r} needs")
    return found[0]


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
