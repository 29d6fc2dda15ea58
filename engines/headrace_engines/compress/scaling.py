"""Rows of about one in size, which networks learn from, and layers that take and give the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace_engines.compress.students import Layer

_TAIL: Final = 0.25


def flat(inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Return inputs of any shape as one matrix, side by side."""
    return np.concatenate([array.reshape(len(array), -1) for array in inputs], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and deviation of each column, which is at least a quarter of the furthest value from the mean.

    So a column that seldom changes does not get huge weights; one that never does is of deviation one.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Self:
        """Return the scaling of these rows."""
        mean = rows.mean(axis=0, dtype=np.float64)
        furthest = np.abs(rows - mean).max(axis=0)
        deviation = np.maximum(rows.std(axis=0, dtype=np.float64), furthest * _TAIL)
        return cls(mean.astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32))

    def scaled(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return rows of mean zero and deviation one."""
        return np.asarray((rows - self.mean) / self.deviation, np.float32)

    def before(self, layers: Sequence[Layer]) -> list[Layer]:
        """Return dense layers that take rows as they are instead of scaled ones."""
        first, *rest = layers
        weights = first.weights / self.deviation[:, None]
        return [replace(first, weights=weights, bias=first.bias - self.mean @ weights), *rest]

    def after(self, layers: Sequence[Layer]) -> list[Layer]:
        """Return dense layers that give rows as they are to be instead of scaled ones."""
        *rest, last = layers
        bias = last.bias * self.deviation + self.mean
        return [*rest, replace(last, weights=last.weights * self.deviation, bias=bias)]
