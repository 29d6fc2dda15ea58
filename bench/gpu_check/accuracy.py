"""Compares what two engines answer, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import metrics

_LEAST_AGREEMENT: Final = 0.97
_LEAST_SQNR_DB: Final = 25.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`top1` is the share of rows with the same class, `sqnr_db` signal to difference, over all rows."""

    top1: float
    sqnr_db: float
    worst_row_db: float
    is_finite: bool

    @property
    def is_right(self) -> bool:
        """Whether the two compute the same, as far as their precision allows."""
        return self.is_finite and (self.top1 >= _LEAST_AGREEMENT or self.sqnr_db >= _LEAST_SQNR_DB)


def compare(answers: NDArray[Any], reference: NDArray[Any]) -> Comparison:
    """Compare scores of classes, (rows, classes) each."""
    if not np.isfinite(answers).all():
        return Comparison(0.0, 0.0, 0.0, is_finite=False)
    errors = metrics.row_errors([answers], [reference])
    return Comparison(
        top1=float(np.mean(metrics.classes(answers) == metrics.classes(reference))),
        sqnr_db=metrics.sqnr_db(errors),
        worst_row_db=metrics.sqnr_db(errors.max(keepdims=True)),
        is_finite=True,
    )
