"""Is an artefact good enough to be served? Pure functions of what was answered and measured.

Both models answer the same rows, so only the rows that tell them apart count: every loss comes with a
95 % confidence interval of paired samples, and a sample that was merely lucky does not pass.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines import metrics
from headrace_engines.errors import GateError

MAX_LOSS = 0.01
"""The largest loss that is measured and still accepted, where none was asked for."""

CREDIBLE_FACTOR = 2
"""How many times the accepted loss the confidence interval may reach."""

MIN_SPEED_RATIO = 1.05
"""Less than this is within what a repeated measurement differs by."""

CONFIDENCE = 0.95
"""How often the interval holds the true loss."""

_DRAWS: Final = 1000
_DRAWS_AT_ONCE_ELEMENTS: Final = 4_000_000
_SEED: Final = 7
_SHOWN_ROWS: Final = 5
_UNSEEN: Final = 3.0
"""Of n rows without an event, 3 / n is the 95 % bound of its frequency."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A metric of a reference and a candidate on the same rows.

    `loss` is how much the candidate lost, negative if it gained, in the unit of the metric; of an error
    (RMSE), in standard deviations of the labels. `low` and `high` bound it with 95 % confidence. `limit`
    is the largest loss that is accepted, and the interval may reach `CREDIBLE_FACTOR` times as far.
    `output` names the output that was judged, with the column of it, counted from 0, that lost most.
    """

    metric: str
    output: str
    rows: int
    reference: float
    candidate: float
    loss: float
    low: float
    high: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the candidate is good enough, and enough rows were seen to say so."""
        # Shares of rows are quotients: a loss of exactly the limit must not fail for its last bit.
        return self.loss <= self.limit * (1 + 1e-9) and self.high <= self.credible_limit

    @property
    def credible_limit(self) -> float:
        """How far the interval may reach."""
        return CREDIBLE_FACTOR * self.limit


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of one batch of `rows` rows, the two executed in turns: the lower quartile of many rounds."""

    rows: int
    reference_seconds: float
    candidate_seconds: float

    @property
    def ratio(self) -> float:
        """How many times faster the candidate is."""
        return self.reference_seconds / self.candidate_seconds


def compare(
    metric: str,
    reference: NDArray[Any],
    candidate: NDArray[Any],
    labels: NDArray[Any] | None = None,
    limit: float = MAX_LOSS,
    output: str = "",
    threshold: float = metrics.PROBABILITY_THRESHOLD,
) -> Quality:
    """Compare the answers of two models to the same rows by a metric, in the column where most was lost.

    Without `labels` the reference's answers are the truth. One score of a row names class 1 above
    `threshold`. Raises ValueError without any row, for answers of different length, or for labels that leave
    the metric undefined.
    """
    if len(reference) == 0 or len(candidate) != len(reference):
        raise ValueError(
            f"expected as many answers of both, at least one, got {len(reference)} and {len(candidate)}"
        )
    truth = reference if labels is None else labels
    right = [metrics.hits(metric, answers, truth, threshold) for answers in (reference, candidate)]
    if right[0] is not None and right[1] is not None:
        return replace(_compare_shares(metric, right[0], right[1], limit), output=output)
    scorers = [metrics.scorer(metric, answers, truth, threshold) for answers in (reference, candidate)]
    scale = -_deviations(truth) if metric == metrics.RMSE else np.ones(1)
    parts = _compare_scores(metric, scorers, len(reference), scale, limit)
    names = [metrics.part_name(metric, reference, part) for part in range(len(parts))]
    return worst(
        replace(quality, output=", ".join(filter(None, (output, name))))
        for quality, name in zip(parts, names, strict=True)
    )


def worst(qualities: Iterable[Quality]) -> Quality:
    """Return the one that speaks most against the candidate: one that did not pass, if there is any."""
    return max(qualities, key=lambda quality: (not quality.passed, quality.high))


def _compare_shares(
    metric: str, reference: NDArray[np.bool_], candidate: NDArray[np.bool_], limit: float
) -> Quality:
    """Compare shares of right rows, with an interval in closed form.

    It is Bonett and Price's adjusted Wald interval for paired proportions ("Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data", Journal of Educational and
    Behavioral Statistics 37, 2012), which stays honest when few rows differ, or none; Fagerland,
    Lydersen and Laake (Statistics in Medicine 33, 2014) recommend it.
    """
    rows = len(reference)
    worse = int(np.count_nonzero(reference & ~candidate))
    better = int(np.count_nonzero(candidate & ~reference))
    lost, gained = (worse + 1) / (rows + 2), (better + 1) / (rows + 2)
    deviation = math.sqrt((lost + gained - (lost - gained) ** 2) / (rows + 2))
    margin = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation
    return Quality(
        metric=metric,
        output="",
        rows=rows,
        reference=float(reference.mean()),
        candidate=float(candidate.mean()),
        loss=(worse - better) / rows,
        low=max(lost - gained - margin, -1.0),
        high=min(lost - gained + margin, 1.0),
        limit=limit,
    )


def _compare_scores(
    metric: str, scorers: Sequence[metrics.Scorer], rows: int, scale: NDArray[np.float64], limit: float
) -> list[Quality]:
    """Compare each part of a metric that is no share of rows: the interval is that of a paired bootstrap.

    A draw repeats rows, so it cannot show what no row shows: where nothing differs, the interval reaches
    as far as a difference could be frequent and yet have been missed. All parts have to pass, so that the
    confidence in each of them is that in all.
    """
    reference, candidate = (metrics.plain(score, rows) for score in scorers)
    random = np.random.default_rng(_SEED)
    at_once = max(1, _DRAWS_AT_ONCE_ELEMENTS // rows)
    drawn: list[NDArray[np.float64]] = []
    for start in range(0, _DRAWS, at_once):
        draws = min(at_once, _DRAWS - start)
        weights = random.multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(np.float64)
        drawn.append((scorers[0](weights) - scorers[1](weights)) / scale)
    losses = (reference - candidate) / scale
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(np.concatenate(drawn), tails, axis=0)
    missed = min(_UNSEEN / rows, 1.0)
    return [
        Quality(
            metric=metric,
            output="",
            rows=rows,
            reference=float(reference[part]),
            candidate=float(candidate[part]),
            loss=float(loss),
            low=float(min(low[part], loss)),
            high=float(max(high[part], loss, missed)),
            limit=limit,
        )
        for part, loss in enumerate(losses)
    ]


def _deviations(truth: NDArray[Any]) -> NDArray[np.float64]:
    """Return the standard deviation of each column of labels; 1 of one that does not vary."""
    deviations = np.std(np.asarray(truth, np.float64).reshape(len(truth), -1), axis=0)
    return np.where(deviations > 0, deviations, 1.0)


def check_quality(name: str, quality: Quality) -> None:
    """Raise GateError if the candidate lost too much, or too few rows were seen to rule that out."""
    if quality.passed:
        return
    where = f" in {quality.output}" if quality.output else ""
    told = (
        f"{name}: {quality.metric} {quality.candidate:.4f}, FP32 {quality.reference:.4f}, on {quality.rows} "
        f"held-out rows; loss {_points(quality.loss)} points{where}, 95 % interval "
        f"{_points(quality.low)} to {_points(quality.high)}"
    )
    if quality.loss > quality.limit:
        raise GateError(f"{told}; the loss may be {_points(quality.limit)} at most")
    raise GateError(
        f"{told}; the interval may reach {_points(quality.credible_limit)} at most, and more rows narrow it"
    )


def check_same(name: str, error: float, limit: float, rows: Sequence[int] = (), asked: int = 0) -> None:
    """Raise GateError if a converted model answers otherwise than its source, or not in numbers.

    `rows` are those of the ones `asked` in which it does so.
    """
    if error <= limit:
        return
    shown = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", ..." if len(rows) > _SHOWN_ROWS else "")
    told = f", in {len(rows)} of {asked} held-out rows (counted from 0: {shown})" if len(rows) else ""
    raise GateError(
        f"{name}: its answers differ from those of the model it was made from by {error:.3g} of their "
        f"range{told}; {limit:.3g} at most is accepted. In few rows, values lie beside a threshold or a tie, "
        "where FP32 rounds otherwise than the source: train on FP32 values, or do what comes before the "
        "trees ahead of the model. In many, the source computes what FP32 cannot hold: scale its inputs"
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
