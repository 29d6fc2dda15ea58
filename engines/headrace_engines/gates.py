"""Is an artefact good enough to be served? Pure functions of what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import GateError

MAX_DROP = 0.01
"""The largest drop in accuracy that is measured and still accepted."""

MAX_CREDIBLE_DROP = 0.02
"""The largest drop that the confidence interval may allow."""

MIN_SPEED_RATIO = 1.05
"""Less than this is within what a repeated measurement differs by."""

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of right answers of a reference and a candidate to the same rows.

    `worse` and `better` are how many rows only the reference, and only the candidate, had right.
    `low` and `high` bound the drop from reference to candidate with 95 % confidence.
    """

    rows: int
    reference: float
    candidate: float
    worse: int
    better: int
    low: float
    high: float

    @property
    def drop(self) -> float:
        """How much the candidate lost; negative if it gained."""
        return self.reference - self.candidate


@dataclass(frozen=True, slots=True)
class Speed:
    """Median seconds of one batch of `rows` rows, the two executed in turns."""

    rows: int
    reference_seconds: float
    candidate_seconds: float

    @property
    def ratio(self) -> float:
        """How many times faster the candidate is."""
        return self.reference_seconds / self.candidate_seconds


def compare_accuracy(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> Accuracy:
    """Compare two models on the same rows; each array says which answers were right.

    Only the rows on which they differ tell them apart. The interval is Bonett and Price's adjusted
    Wald interval for paired proportions ("Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data", Journal of Educational and Behavioral Statistics 37,
    2012), which stays honest when few rows differ, or none; Fagerland, Lydersen and Laake
    (Statistics in Medicine 33, 2014) recommend it. Raises ValueError without any row.
    """
    rows = len(reference)
    if rows == 0 or len(candidate) != rows:
        raise ValueError(f"expected as many answers of both, at least one, got {rows} and {len(candidate)}")
    worse = int(np.count_nonzero(reference & ~candidate))
    better = int(np.count_nonzero(candidate & ~reference))
    lost, gained = (worse + 1) / (rows + 2), (better + 1) / (rows + 2)
    deviation = math.sqrt((lost + gained - (lost - gained) ** 2) / (rows + 2))
    margin = statistics.NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * deviation
    return Accuracy(
        rows=rows,
        reference=float(reference.mean()),
        candidate=float(candidate.mean()),
        worse=worse,
        better=better,
        low=max(lost - gained - margin, -1.0),
        high=min(lost - gained + margin, 1.0),
    )


def check_accuracy(name: str, accuracy: Accuracy) -> None:
    """Raise GateError if the candidate lost too much, or too few rows were seen to rule that out."""
    measured = (
        f"{name}: accuracy {accuracy.candidate:.4f}, FP32 {accuracy.reference:.4f}, on {accuracy.rows} "
        f"held-out rows; drop {_points(accuracy.drop)} points, 95 % interval "
        f"{_points(accuracy.low)} to {_points(accuracy.high)}"
    )
    # A whole number of rows is compared, so that a drop of exactly one point passes.
    if accuracy.worse - accuracy.better > MAX_DROP * accuracy.rows:
        raise GateError(f"{measured}; the drop may be {_points(MAX_DROP)} at most")
    if accuracy.high > MAX_CREDIBLE_DROP:
        raise GateError(f"{measured}; the interval may reach {_points(MAX_CREDIBLE_DROP)} at most")


def check_same(name: str, error: float, limit: float) -> None:
    """Raise GateError if a converted model answers otherwise than its source, or not in numbers."""
    if not error <= limit:
        raise GateError(
            f"{name}: its answers differ from those of the model it was made from by {error:.3g}; "
            f"{limit:.3g} at most is accepted"
        )


def speed_ratio(speeds: Sequence[Speed]) -> float:
    """Return the geometric mean of the ratios: how many times faster over all sizes of batch."""
    return statistics.geometric_mean(speed.ratio for speed in speeds)


def check_speed(name: str, speeds: Sequence[Speed]) -> None:
    """Raise GateError if the candidate is no faster, so that nothing is gained by serving it."""
    ratio = speed_ratio(speeds)
    if ratio < MIN_SPEED_RATIO:
        single = ", ".join(f"{speed.ratio:.2f} at batch {speed.rows}" for speed in speeds)
        raise GateError(
            f"{name}: not better: {ratio:.2f} times as fast as FP32 ({single}); "
            f"{MIN_SPEED_RATIO} at least is expected"
        )


def _points(share: float) -> str:
    return f"{100 * share:.2f}"
