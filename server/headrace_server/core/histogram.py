"""Times and sizes by buckets, cheap enough to be counted for every request."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

SECONDS_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROWS_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_NS_BOUNDS: Final = (*(round(bound * 1e9) for bound in SECONDS_BOUNDS), 1 << 63)
"""With one for what is above all others."""


class Histogram(NamedTuple):
    """How many values lie at or below each of `bounds` and above the one before; `counts` has one place
    more, for those above all of them. `sum` is of the values themselves."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


def no_times() -> list[int]:
    """Return the counts of a histogram of times that is still empty."""
    return [0] * len(_NS_BOUNDS)


def count_time(counts: list[int], ns: int, times: int) -> None:
    """Count one time so often."""
    counts[bisect_left(_NS_BOUNDS, ns)] += times


def count_times(counts: list[int], from_ns: Sequence[int], until_ns: int) -> None:
    """Count the times from each of these moments, which are ascending, to one that follows them all.

    Those of a batch lie in few buckets, often in one, so that each bucket is looked for and not each time's.
    """
    rest = len(from_ns)
    while rest:
        bucket = bisect_left(_NS_BOUNDS, until_ns - from_ns[rest - 1])
        first_ns = until_ns - _NS_BOUNDS[bucket]
        if from_ns[0] >= first_ns:
            counts[bucket] += rest
            return
        earlier = bisect_left(from_ns, first_ns, 0, rest)
        counts[bucket] += rest - earlier
        rest = earlier


def of_times(counts: Sequence[int], ns: int) -> Histogram:
    """Return the histogram of times in seconds that took `ns` together."""
    return Histogram(SECONDS_BOUNDS, tuple(counts), ns * 1e-9)


def of_sizes(times: Mapping[int, int]) -> Histogram:
    """Return the histogram of numbers of rows, given how often each came."""
    counts = [0] * (len(ROWS_BOUNDS) + 1)
    for rows, often in times.items():
        counts[bisect_left(ROWS_BOUNDS, rows)] += often
    return Histogram(ROWS_BOUNDS, tuple(counts), sum(rows * often for rows, often in times.items()))
