"""What a model's answers are judged by: each output's metric, and what is right.

Where labels are given, that is the metric of their task, for the outputs that they are for. Other outputs,
and without labels all, can only be compared with the model in FP32: by the class that both name, where the
output tells classes, else by how much of the variance of the FP32 answers is kept. On made-up rows a class
says nothing, since noise lies near no model's data, so that there only the latter is asked. Where FP32
answers every row alike, nothing can be judged by them, which is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import class_labels, criterion, gates, guessing, metrics, outputs, tasks
from headrace_engines.criterion import Criterion
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
    """What each output is judged by, that which decides most first: every one has to pass.

    `rows` tells which of the held-out rows count, None that all do; `notes` what a person should know.
    `tells` is False where FP32 answers all rows alike: then an artefact that does so, too, would pass, and
    nothing would be told of any.
    """

    criteria: tuple[Criterion, ...]
    max_loss: float
    rows: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    tells: bool = True

    @property
    def first(self) -> Criterion:
        """The output that labels are for, else the one that tells most of the task."""
        return self.criteria[0]

    def seen(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return those rows of an output that count."""
        return array if self.rows is None else array[self.rows]

    def reference(self, answers: Answers) -> float:
        """Return the first criterion's metric of FP32 itself, of several columns that of the first."""
        array = self.seen(answers[self.first.index])
        return self.first.compare(array, array, self.max_loss).reference

    def compare(self, reference: Answers, candidate: Answers) -> Quality:
        """Compare two models' answers to the same rows, on the output and column that speaks most against it.

        Raises GateError if the candidate's are no numbers where the reference's are.
        """
        for one in self.criteria:
            index = one.index
            if reference[index].dtype.kind == "f" and not _as_finite(candidate[index], reference[index]):
                raise GateError(f"its answers in {one.name!r} are not numbers where those of FP32 are")
        return gates.worst(
            one.compare(self.seen(reference[one.index]), self.seen(candidate[one.index]), self.max_loss)
            for one in self.criteria
        )

    def divided(self, count: int) -> tuple[Judgement, Judgement] | None:
        """Return one judgement to choose an artefact by and one to judge the chosen, with no row in common.

        What was chosen for some rows looks better on these than it is. `count` is that of all rows. None
        where the rows are too few, or of labels that leave a part without a second class.
        """
        kept = np.arange(count) if self.rows is None else np.flatnonzero(self.rows)
        order = np.random.default_rng(_SEED).permutation(len(kept))
        labels = self.first.labels
        if labels is not None and self.first.metric not in metrics.REGRESSING:
            # Each class is divided by itself, so that a rare one is in both parts.
            order = order[np.argsort(labels[order].astype(str), kind="stable")]
        chooses = np.zeros(len(kept), bool)
        chooses[order[_CHOOSING_SHARE - 1 :: _CHOOSING_SHARE]] = True
        if not chooses.any():
            return None
        parts = self._part(count, kept, chooses), self._part(count, kept, ~chooses)
        if self.first.metric == metrics.AUC and any(_is_one(part.first.labels) for part in parts):
            return None
        return parts

    def _part(self, count: int, kept: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Judgement:
        rows = np.zeros(count, bool)
        rows[kept[chosen]] = True
        return replace(self, rows=rows, criteria=tuple(one.of_rows(chosen) for one in self.criteria))


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
    its answers have to be like those of FP32, as those of the outputs that the labels are not for. Raises
    DataError if the labels do not fit the model or the metric.
    """
    max_loss = gates.MAX_LOSS if wish.max_loss is None else wish.max_loss
    if labels is not None and REGRESSION not in (wish.task, tasks.of_metric(wish.metric)):
        widths = [outputs.width(answers[index]) for index in outputs.floats(answers)]
        labels = class_labels.from_one_hot(labels, widths, classes)
    metric = wish.metric or tasks.metric(answers, labels, wish.task, made_up=made_up)
    if not metrics.needs_labels(metric):
        criteria = criterion.of_likeness(metric, names, answers, made_up=made_up)
        judged = Judgement(tuple(criteria), max_loss)
        return _told_apart(_of_answered(judged, answers, places), answers)
    if labels is None:
        raise DataError(f"metric {metric!r} needs labels, and none were given")
    first = _by_labels(metric, names, answers, labels, classes, places)
    others = criterion.of_others((first.index,), names, answers, made_up=made_up)
    judged = _trusted(_of_answered(Judgement((first, *others), max_loss), answers, places), answers)
    return _told_apart(_by_same_labels(judged, answers, labels, classes), answers)


def _by_labels(
    metric: str,
    names: Sequence[str],
    answers: Answers,
    labels: NDArray[Any],
    classes: class_labels.Classes,
    places: tuple[str, ...],
) -> Criterion:
    """Return how the output is judged that the labels are for."""
    if metric in metrics.REGRESSING:
        index = tasks.value_output(answers, labels)
        return Criterion(index, names[index], metric, _values(labels, answers[index], names[index]))
    index = tasks.class_output(answers, metric, labels)
    _check_places(metric, answers[index])
    fitted = class_labels.fitted(labels, answers[index], names[index], classes, places)
    return Criterion(index, names[index], metric, fitted)


def _by_same_labels(
    judged: Judgement, answers: Answers, labels: NDArray[Any], classes: class_labels.Classes
) -> Judgement:
    """Return the same with the labels for each output that names the classes that they tell."""
    seen = [judged.seen(array) for array in answers]
    first, *others = judged.criteria
    told = (criterion.of_same_labels(first, other, seen, judged.seen(labels), classes) for other in others)
    return replace(judged, criteria=(first, *told))


def _check_places(metric: str, answers: NDArray[Any]) -> None:
    """Raise DataError for a top-K that every answer has."""
    count = max(outputs.width(answers), 2)
    if metrics.top_k(metric) >= count:
        raise DataError(
            f"metric {metric!r} finds every label among {count} classes: K may be {count - 1} at most"
        )


def _of_answered(judged: Judgement, answers: Answers, places: tuple[str, ...]) -> Judgement:
    """Return the same for the rows that FP32 answers with numbers: no other tells anything of a loss."""
    answered = np.logical_and.reduce([one.answered(answers[one.index]) for one in judged.criteria])
    without = np.flatnonzero(~answered)
    if not without.size:
        return _with_thresholds(judged, answers)
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
    criteria = tuple(one.of_rows(answered) for one in judged.criteria)
    return _with_thresholds(replace(judged, criteria=criteria, rows=answered, notes=(note,)), answers)


def _with_thresholds(judged: Judgement, answers: Answers) -> Judgement:
    """Return the same with the scores above which class 1 is named, where an output is one score."""
    criteria = tuple(one.with_threshold(judged.seen(answers[one.index])) for one in judged.criteria)
    notes = [
        f"output {one.name!r} was taken for a logit, since its values leave 0 to 1: above "
        f"{metrics.LOGIT_THRESHOLD:g} it names class 1"
        for one in criteria
        if one.threshold == metrics.LOGIT_THRESHOLD
    ]
    return replace(judged, criteria=criteria, notes=(*judged.notes, *notes))


def _trusted(judged: Judgement, answers: Answers) -> Judgement:
    """Return the same, or a judgement by likeness to FP32 where the labels show no model to be good."""
    first, *others = judged.criteria
    if first.labels is None:
        return judged
    array = judged.seen(answers[first.index])
    told = array if first.threshold is None else first.classes(array)
    shown = guessing.no_better(first.metric, told, first.labels)
    if not shown:
        return judged
    metric = FIDELITY if first.metric in (*metrics.REGRESSING, metrics.AUC) else AGREEMENT
    note = (
        f"by these labels the model in FP32 does not show to be better than guessing ({shown}): artefacts "
        f"were judged by {metric} with FP32 instead; see whether the labels belong to these rows, and mean "
        "what the model's answers mean"
    )
    criteria = (replace(first, metric=metric, labels=None), *others)
    return replace(judged, criteria=criteria, notes=(*judged.notes, note))


def _told_apart(judged: Judgement, answers: Answers) -> Judgement:
    """Return the same, by values where FP32 names one class for all rows, which any artefact may do.

    Where it answers all rows alike, nothing tells artefacts apart, and the judgement says so.
    """
    seen = [judged.seen(array) for array in answers]
    criteria = [one.of_one_class(seen[one.index]) for one in judged.criteria]
    notes = [
        f"FP32 names one class in {one.name!r} for all rows, as a ruined artefact might: "
        f"artefacts were judged by {FIDELITY} instead"
        for one, before in zip(criteria, judged.criteria, strict=True)
        if one.metric != before.metric
    ]
    silent = [one for one in criteria if not one.tells(seen[one.index])]
    telling = [one for one in criteria if one.tells(seen[one.index])]
    if silent:
        what = "the quality of some outputs" if telling else "quality"
        named = ", ".join(repr(one.name) for one in silent)
        notes.append(
            f"{what} could not be judged, since the answers of FP32 in {named} are the same for every row: "
            "give rows with --data that the model tells apart, prepared as it was trained"
        )
    return replace(judged, criteria=(*telling, *silent), notes=(*judged.notes, *notes), tells=bool(telling))


def _is_one(labels: NDArray[Any] | None) -> bool:
    return labels is None or len(np.unique(labels)) < 2


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
