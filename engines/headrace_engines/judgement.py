"""What a model's answers are judged by: which output, which metric, and what is right.

Where labels are given, that is the metric of their task. Without them the artefacts can only be
compared with the model in FP32: by the class that both name, where the output tells classes, else by how
much of the variance of the FP32 answers is kept. On made-up rows a class says nothing, since noise lies
near no model's data, so that there only the latter is asked. Where FP32 answers every row alike, nothing can
be judged by them, which is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import class_labels, gates, guessing, metrics, outputs, tasks
from headrace_engines.data import missing
from headrace_engines.errors import DataError, GateError
from headrace_engines.gates import Quality
from headrace_engines.metrics import AGREEMENT, FIDELITY
from headrace_engines.outputs import Answers as Answers
from headrace_engines.tasks import REGRESSION, TASKS

_CHOOSING_SHARE: Final = 3
"""One row in so many is for choosing among artefacts, where there are several to choose from."""
_SEED: Final = 11


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

    `rows` tells which of the held-out rows count, None that all do; `notes` what a person should know. One
    score of a row names class 1 above `threshold`, None where no output has such. `tells` is False where FP32
    answers all rows alike: then an artefact that does so, too, passes, and nothing was told of any.
    """

    metric: str
    outputs: tuple[tuple[int, str], ...]
    labels: NDArray[Any] | None
    max_loss: float
    rows: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    threshold: float | None = None
    tells: bool = True

    def seen(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return those rows of an output that count."""
        return array if self.rows is None else array[self.rows]

    def classes(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the class that each row of an output is answered with."""
        return metrics.classes(array, self._threshold)

    def compare(self, reference: Answers, candidate: Answers) -> Quality:
        """Compare two models' answers to the same rows, on the output and column that speaks most against it.

        Raises GateError if the candidate's are no numbers where the reference's are.
        """
        for index, name in self.outputs:
            if reference[index].dtype.kind == "f" and not _as_finite(candidate[index], reference[index]):
                raise GateError(f"its answers in {name!r} are not numbers where those of FP32 are")
        return gates.worst(
            gates.compare(
                self.metric,
                self.seen(reference[index]),
                self.seen(candidate[index]),
                self.labels,
                self.max_loss,
                name,
                self._threshold,
            )
            for index, name in self.outputs
        )

    def divided(self, count: int) -> tuple[Judgement, Judgement] | None:
        """Return one judgement to choose an artefact by and one to judge the chosen, with no row in common.

        What was chosen for some rows looks better on these than it is. `count` is that of all rows. None
        where the rows are too few, or of labels that leave a part without a second class.
        """
        kept = np.arange(count) if self.rows is None else np.flatnonzero(self.rows)
        order = np.random.default_rng(_SEED).permutation(len(kept))
        if self.labels is not None and self.metric not in metrics.REGRESSING:
            # Each class is divided by itself, so that a rare one is in both parts.
            order = order[np.argsort(self.labels[order].astype(str), kind="stable")]
        chooses = np.zeros(len(kept), bool)
        chooses[order[_CHOOSING_SHARE - 1 :: _CHOOSING_SHARE]] = True
        if not chooses.any():
            return None
        parts = self._part(count, kept, chooses), self._part(count, kept, ~chooses)
        if self.metric == metrics.AUC and any(part.labels is None or _is_one(part.labels) for part in parts):
            return None
        return parts

    def _part(self, count: int, kept: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Judgement:
        rows = np.zeros(count, bool)
        rows[kept[chosen]] = True
        return replace(self, rows=rows, labels=None if self.labels is None else self.labels[chosen])

    @property
    def _threshold(self) -> float:
        return metrics.PROBABILITY_THRESHOLD if self.threshold is None else self.threshold


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
    if labels is not None and REGRESSION not in (wish.task, tasks.of_metric(wish.metric)):
        widths = [outputs.width(answers[index]) for index in outputs.floats(answers)]
        labels = class_labels.from_one_hot(labels, widths, classes)
    metric = wish.metric or tasks.metric(answers, labels, wish.task, made_up=made_up)
    if not metrics.needs_labels(metric):
        judged = Judgement(metric, _compared(metric, names, answers), None, max_loss)
        return _told_apart(_of_answered(judged, answers, places), names, answers, places)
    if labels is None:
        raise DataError(f"metric {metric!r} needs labels, and none were given")
    if metric in metrics.REGRESSING:
        index = tasks.value_output(answers, labels)
        fitted = _values(labels, answers[index], names[index])
    else:
        index = tasks.class_output(answers, metric, labels)
        _check_places(metric, answers[index])
        fitted = class_labels.fitted(labels, answers[index], names[index], classes, places)
    judged = _of_answered(Judgement(metric, ((index, names[index]),), fitted, max_loss), answers, places)
    return _told_apart(_trusted(judged, answers), names, answers, places)


def _compared(metric: str, names: Sequence[str], answers: Answers) -> tuple[tuple[int, str], ...]:
    """Return the outputs of which likeness to FP32 is asked."""
    chosen = outputs.floats(answers) if metric == FIDELITY else [tasks.class_output(answers, metric)]
    return tuple((index, names[index]) for index in chosen)


def _check_places(metric: str, answers: NDArray[Any]) -> None:
    """Raise DataError for a top-K that every answer has."""
    count = max(outputs.width(answers), 2)
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
        return _with_threshold(judged, answers)
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
    return _with_threshold(replace(judged, labels=labels, rows=answered, notes=(note,)), answers)


def _is_answered(array: NDArray[Any], metric: str) -> NDArray[np.bool_]:
    if array.dtype.kind != "f" or not array.size:
        return np.ones(len(array), bool)
    flat = array.reshape(len(array), -1)
    if metric in metrics.REGRESSING:
        return np.asarray(np.isfinite(flat).all(axis=1))
    return np.asarray(np.isfinite(flat).any(axis=1) & ~np.isnan(flat).any(axis=1))


def _with_threshold(judged: Judgement, answers: Answers) -> Judgement:
    """Return the same with the score above which class 1 is named, where an output is one score.

    FP32 decides for all artefacts: scores that leave 0 to 1 are logits, others probabilities.
    """
    index, name = judged.outputs[0]
    array = judged.seen(answers[index])
    names_classes = judged.metric in (AGREEMENT, metrics.ACCURACY, metrics.F1) or metrics.top_k(judged.metric)
    if not names_classes or array.dtype.kind != "f" or outputs.width(array) != 1:
        return judged
    if outputs.are_shares(array):
        return replace(judged, threshold=metrics.PROBABILITY_THRESHOLD)
    note = (
        f"output {name!r} was taken for a logit, since its values leave 0 to 1: above "
        f"{metrics.LOGIT_THRESHOLD:g} it names class 1"
    )
    return replace(judged, threshold=metrics.LOGIT_THRESHOLD, notes=(*judged.notes, note))


def _trusted(judged: Judgement, answers: Answers) -> Judgement:
    """Return the same, or a judgement by likeness to FP32 where the labels show no model to be good."""
    if judged.labels is None:
        return judged
    index, _ = judged.outputs[0]
    array = judged.seen(answers[index])
    told = array if judged.threshold is None else judged.classes(array)
    shown = guessing.no_better(judged.metric, told, judged.labels)
    if not shown:
        return judged
    metric = FIDELITY if judged.metric in (*metrics.REGRESSING, metrics.AUC) else AGREEMENT
    note = (
        f"by these labels the model in FP32 does not show to be better than guessing ({shown}): artefacts "
        f"were judged by {metric} with FP32 instead; see whether the labels belong to these rows, and mean "
        "what the model's answers mean"
    )
    return replace(judged, metric=metric, labels=None, notes=(*judged.notes, note))


def _told_apart(
    judged: Judgement, names: Sequence[str], answers: Answers, places: tuple[str, ...]
) -> Judgement:
    """Return the same, or one by values where FP32 names one class for all rows, which any artefact may do.

    Where it answers all rows alike, nothing tells artefacts apart, and the judgement says so.
    """
    if judged.labels is not None or _differ(judged, answers):
        return judged
    values = _compared(FIDELITY, names, answers)
    if judged.metric == AGREEMENT and values:
        other = _of_answered(Judgement(FIDELITY, values, None, judged.max_loss), answers, places)
        if _differ(other, answers):
            note = (
                f"FP32 names one class in {judged.outputs[0][1]!r} for all rows, as a ruined artefact might: "
                f"artefacts were judged by {FIDELITY} instead"
            )
            return replace(other, notes=tuple(dict.fromkeys((*judged.notes, *other.notes, note))))
    told = ", ".join(repr(name) for _, name in judged.outputs)
    note = (
        f"quality could not be judged, since the answers of FP32 in {told} are the same for every row: give "
        "rows with --data that the model tells apart, prepared as it was trained"
    )
    return replace(judged, notes=(*judged.notes, note), tells=False)


def _differ(judged: Judgement, answers: Answers) -> bool:
    """Whether FP32 answers rows differently in what is judged."""
    seen = [judged.seen(answers[index]) for index, _ in judged.outputs]
    return any(
        outputs.differ(judged.classes(array) if judged.metric == AGREEMENT else array) for array in seen
    )


def _is_one(labels: NDArray[Any]) -> bool:
    return len(np.unique(labels)) < 2


def _as_finite(candidate: NDArray[Any], reference: NDArray[Any]) -> bool:
    return bool(np.all(np.isfinite(candidate) | ~np.isfinite(reference)))


def _values(labels: NDArray[Any], answers: NDArray[Any], name: str) -> NDArray[np.float64]:
    try:
        values = labels.astype(np.float64)
    except ValueError as error:
        raise DataError(f"the labels are no numbers, which output {name!r} is: {error}") from error
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise DataError(f"{bad} labels are not finite numbers")
    return values.reshape(answers.shape)
