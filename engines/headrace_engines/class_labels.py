"""Labels of classes, brought to how an output tells classes: by their own values, or by places of scores.

What a label means is never guessed where it is a number: one that is out of range is an error, since ranks
among the labels that happen to be there would be other classes than the model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.data import missing
from headrace_engines.data.columns import listed
from headrace_engines.documents import Scalar
from headrace_engines.errors import DataError
from headrace_engines.rows import text_of

Classes = tuple[Scalar, ...]
"""The classes that a source knows, in the order of its scores; none where it does not tell."""


def known(facts: Mapping[str, Scalar]) -> Classes:
    """Return the classes that the facts of a source name; none for several labels a row."""
    told = json.loads(str(facts.get("classes", "[]")))
    return tuple(told) if all(isinstance(each, str | int | float) for each in told) else ()


def are_text(values: NDArray[Any]) -> bool:
    """Whether an array holds texts."""
    return values.dtype.kind in "OUS"


def from_one_hot(labels: NDArray[Any], widths: Sequence[int], classes: Classes) -> NDArray[Any]:
    """Return the class of each row where rows have a 1 for it and 0 for each other; else the labels.

    `widths` are those of the outputs with scores, one of which has to be as wide.
    """
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.shape[1] not in widths or are_text(labels):
        return labels
    if not np.isin(labels, (0, 1)).all() or (labels.sum(axis=1) != 1).any():
        return labels
    places: NDArray[Any] = np.argmax(labels, axis=1)
    if len(classes) != labels.shape[1]:
        return places
    is_text = any(isinstance(each, str) for each in classes)
    values: NDArray[Any] = np.array(classes, object if is_text else None)
    return np.asarray(values[places])


def fitted(
    labels: NDArray[Any], answers: NDArray[Any], name: str, classes: Classes, places: tuple[str, ...]
) -> NDArray[Any]:
    """Return the labels as the output `name` tells classes: its own values, or the places of scores.

    `places` say where each row stands in its source. Raises DataError naming the first that is none.
    """
    if labels.ndim > 1:
        if labels.size != len(labels):
            raise DataError(f"the labels have shape {list(labels.shape[1:])} a row; expected one class")
        labels = labels.reshape(-1)
    if are_text(labels):
        labels = np.array([text_of(label) for label in labels], object)
    alike = classes if are_text(labels) == any(isinstance(each, str) for each in classes) else ()
    if answers.dtype.kind != "f":
        _check(labels, alike, name, places)
        return labels.astype(str).astype(object) if are_text(answers) else labels
    count = _count(answers)
    if len(alike) != count:
        if are_text(labels):
            return _ranks(labels, count, name)
        alike = tuple(range(count))
    _check(labels, alike, name, places)
    order = {each: place for place, each in enumerate(alike)}
    return np.array([order[label] for label in labels.tolist()], np.int64)


def _count(answers: NDArray[Any]) -> int:
    return max(1 if answers.ndim == 1 else answers.shape[-1], 2)


def _check(labels: NDArray[Any], classes: Classes, name: str, places: tuple[str, ...]) -> None:
    """Raise DataError for the first label that is none of the classes, where these are known."""
    for at, label in enumerate(labels.tolist() if classes else ()):
        if label not in classes:
            count = len(classes)
            told = f"0 to {count - 1}" if classes == tuple(range(count)) else listed(classes)
            raise DataError(
                f"label {label!r} in {missing.row(places, at)} is out of range: "
                f"the classes of output {name!r} are {told}"
            )


def _ranks(labels: NDArray[Any], count: int, name: str) -> NDArray[np.int64]:
    """Return the places of texts in their sorted order, in which scikit-learn's models score them."""
    kinds, ranks = np.unique(labels.astype(str), return_inverse=True)
    if len(kinds) != count:
        raise DataError(f"the labels are of {len(kinds)} classes, and output {name!r} has {count}")
    return ranks.astype(np.int64)
