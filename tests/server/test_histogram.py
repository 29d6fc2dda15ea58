from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.core.histogram import (
    ROWS_BOUNDS,
    SECONDS_BOUNDS,
    count_time,
    count_times,
    no_times,
    of_sizes,
    of_times,
)

BOUNDS_NS = [round(bound * 1e9) for bound in SECONDS_BOUNDS]
UNTIL_NS = 10**12

NEAR_BOUNDS = st.tuples(st.sampled_from(BOUNDS_NS), st.integers(-2, 2)).map(sum)
TIMES_NS = st.lists(st.one_of(st.integers(0, 20 * 10**9), NEAR_BOUNDS), max_size=40)


def naive_counts(times_ns: list[int]) -> list[int]:
    return [
        *(
            sum(low < ns <= high for ns in times_ns)
            for low, high in zip([-1, *BOUNDS_NS], BOUNDS_NS, strict=False)
        ),
        sum(ns > BOUNDS_NS[-1] for ns in times_ns),
    ]


@given(TIMES_NS)
def test_each_time_lies_in_the_bucket_whose_bounds_enclose_it(times_ns: list[int]) -> None:
    counts = no_times()
    count_times(counts, sorted(UNTIL_NS - ns for ns in times_ns), UNTIL_NS)
    assert counts == naive_counts(times_ns)


@given(TIMES_NS)
def test_single_times_are_counted_as_those_of_a_batch(times_ns: list[int]) -> None:
    counts = no_times()
    for ns, often in collections.Counter(times_ns).items():
        count_time(counts, ns, often)
    assert counts == naive_counts(times_ns)


def test_a_histogram_of_times_is_in_seconds() -> None:
    counts = no_times()
    count_time(counts, 2_000_000, 3)
    count_time(counts, 60 * 10**9, 1)
    told = of_times(counts, 3 * 2_000_000 + 60 * 10**9)
    assert told.bounds == SECONDS_BOUNDS
    assert dict(zip((*told.bounds, "more"), told.counts, strict=True)) == {
        **dict.fromkeys(SECONDS_BOUNDS, 0), 0.0025: 3, "more": 1,
    }  # fmt: skip
    assert told.sum == pytest.approx(60.006)


@pytest.mark.parametrize(
    ("rows", "place"),
    [pytest.param(1, 0, id="one"), pytest.param(64, 6, id="a bound"), pytest.param(65, 7, id="above it"),
     pytest.param(1025, 11, id="above all")],
)  # fmt: skip
def test_sizes_lie_at_or_below_their_bounds(rows: int, place: int) -> None:
    told = of_sizes({rows: 3})
    assert told.counts == tuple(3 * (at == place) for at in range(len(ROWS_BOUNDS) + 1))
    assert told.sum == 3 * rows
