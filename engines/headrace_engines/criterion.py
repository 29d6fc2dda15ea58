"""By what one output of a model is judged: a metric, and what that needs to know of the output.

Arrays hold an answer a row, and only the rows that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines import class_labels, gates, metrics, outputs, tasks
from headrace_engines.errors import DataError
from headrace_engines.gates import Quality
from headrace_engines.metrics import ACCURACY, AGREEMENT, F1, FIDELITY
from headrace_engines.outputs import Answers


@dataclass(frozen=True, slots=True)
class Criterion:
    """An output, by index and name, its metric, and the labels as that needs them; None for likeness to FP32.

    One score of a row names class 1 above `threshold`, None where the output has no such.
    """

    index: int
    name: str
    metric: str
    labels: NDArray[Any] | None = None
    threshold: float | None = None

    def classes(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the class that each row is answered with."""
        return metrics.classes(array, self._limit)

    def compare(self, reference: NDArray[Any], candidate: NDArray[Any], max_loss: float) -> Quality:
        """Compare two models' answers to the same rows, on the column that speaks most against the second."""
        return gates.compare(self.metric, reference, candidate, self.labels, max_loss, self.name, self._limit)

    def answered(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell of each row whether its answer is one that the metric can judge."""
        if array.dtype.kind != "f" or not array.size:
            return np.ones(len(array), bool)
        flat = array.reshape(len(array), -1)
        if self.metric in metrics.REGRESSING:
            return np.asarray(np.isfinite(flat).all(axis=1))
        return np.asarray(np.isfinite(flat).any(axis=1) & ~np.isnan(flat).any(axis=1))

    def tells(self, array: NDArray[Any]) -> bool:
        """Whether these answers of FP32 let the metric tell a ruined artefact: not if they are all alike."""
        return self.labels is not None or outputs.differ(
            self.classes(array) if self.metric == AGREEMENT else array
        )

    def with_threshold(self, array: NDArray[Any]) -> Criterion:
        """Return the same with the threshold that these answers of FP32 show, if one score names a class.

        FP32 decides for all artefacts: scores that leave 0 to 1 are logits, others probabilities.
        """
        names_classes = self.metric in (AGREEMENT, ACCURACY, F1) or metrics.top_k(self.metric)
        if not names_classes or array.dtype.kind != "f" or outputs.width(array) != 1:
            return self
        is_probability = outputs.are_shares(array)
        threshold = metrics.PROBABILITY_THRESHOLD if is_probability else metrics.LOGIT_THRESHOLD
        return replace(self, threshold=threshold)

    def of_one_class(self, array: NDArray[Any]) -> Criterion:
        """Return the same by values where FP32 names one class for all rows, and its scores differ."""
        by_values = replace(self, metric=FIDELITY, threshold=None)
        can = array.dtype.kind == "f" and by_values.tells(array)
        return by_values if can and not self.tells(array) else self

    def of_rows(self, chosen: NDArray[np.bool_]) -> Criterion:
        """Return the same for some of the rows that count."""
        return self if self.labels is None else replace(self, labels=self.labels[chosen])

    @property
    def _limit(self) -> float:
        return metrics.PROBABILITY_THRESHOLD if self.threshold is None else self.threshold


def of_likeness(metric: str, names: Sequence[str], answers: Answers, *, made_up: bool) -> list[Criterion]:
    """Return how likeness to FP32 is judged by a metric, and each other output by the metric that suits it.

    Raises DataError if no output suits the metric.
    """
    if metric == AGREEMENT:
        first = tasks.class_output(answers, metric)
        return [Criterion(first, names[first], metric), *of_others((first,), names, answers, made_up=made_up)]
    floats = outputs.floats(answers)
    if not floats:
        raise DataError(f"no output is of floating point, which metric {metric!r} needs")
    values = [Criterion(index, names[index], metric) for index in floats]
    return [*values, *of_others(floats, names, answers, made_up=made_up)]


def of_others(
    judged: Sequence[int], names: Sequence[str], answers: Answers, *, made_up: bool
) -> list[Criterion]:
    """Return how the other outputs are judged by likeness: classes by agreement, values by fidelity.

    Made-up rows lie near no model's data, so that there only values say anything.
    """
    has_values = bool(outputs.floats(answers))
    found = []
    for index, array in enumerate(answers):
        if index in judged or not array.size:
            continue
        if outputs.are_classes(array):
            if not (made_up and has_values):
                found.append(Criterion(index, names[index], AGREEMENT))
        elif array.dtype.kind == "f":
            tells_classes = not made_up and outputs.width(array) > 1 and outputs.are_distributions(array)
            found.append(Criterion(index, names[index], AGREEMENT if tells_classes else FIDELITY))
    return found


def of_same_labels(
    first: Criterion, other: Criterion, seen: Answers, labels: NDArray[Any], classes: class_labels.Classes
) -> Criterion:
    """Return another output judged by the labels of the first, where these are for it, too.

    They are if FP32 is right by them in the same rows, as a class and its probabilities are. Else labels
    tell nothing of the output, and the same is returned.
    """
    array = seen[other.index]
    if first.labels is None or first.metric in metrics.REGRESSING or not outputs.width(array):
        return other
    try:
        fitted = class_labels.fitted(labels, array, other.name, classes, ())
    except DataError:
        return other
    metric = first.metric if first.metric == F1 else ACCURACY
    labelled = replace(other, metric=metric, labels=fitted).with_threshold(array)
    right = first.classes(seen[first.index]) == first.labels
    return labelled if np.array_equal(right, labelled.classes(array) == fitted) else other
