"""Compares what two engines answer, by the measures that a plan is served by."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from headrace_engines import metrics, plan_gate
from headrace_engines.plan_gate import Likeness


def compare(answers: NDArray[Any], reference: NDArray[Any]) -> Likeness:
    """Compare scores of classes, (rows, classes) each."""
    return plan_gate.likeness([reference], [answers])


def is_right(found: Likeness) -> bool:
    """Whether a plan that answers so would be served."""
    is_like = found.sqnr_db >= plan_gate.LEAST_SQNR_DB
    return is_like and found.agreement >= plan_gate.LEAST_AGREEMENT


def worst_row_db(answers: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the signal to the difference of the row that differs most."""
    return metrics.sqnr_db(metrics.row_errors([answers], [reference]).max(keepdims=True))


def told(figure: float, digits: int) -> float | None:
    """Return the figure as tables have it; None for what is no number, which JSON cannot hold."""
    return round(figure, digits) if math.isfinite(figure) else None
