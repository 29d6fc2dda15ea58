"""The most rows that batches may have after memory has not sufficed for one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.core.batch_limit import BatchLimit


@pytest.mark.parametrize(
    ("exhausted", "rows"), [([64], 32), ([64, 32], 16), ([10], 5), ([3], 1), ([64, 40], 20)]
)
def test_half_of_what_was_too_much_is_allowed(exhausted: list[int], rows: int) -> None:
    limit = BatchLimit(64)
    news = [limit.exhausted(one, 0.0) for one in exhausted]
    assert limit.rows == rows
    assert news == [True, *[False] * (len(exhausted) - 1)]


def test_with_time_it_grows_back_to_the_largest_and_no_further() -> None:
    limit = BatchLimit(48)
    assert limit.grows_at == math.inf
    limit.exhausted(24, 100.0)
    seen = []
    while limit.grows_at != math.inf:
        now = limit.grows_at
        limit.grow(now)
        seen.append((now, limit.rows))
    assert seen == [(160.0, 24), (220.0, 48)]
    assert limit.exhausted(48, 300.0), "that is news again"


@given(st.integers(2, 200), st.lists(st.one_of(st.none(), st.integers(2, 200)), max_size=20))
def test_it_is_always_a_batch_of_some_rows_and_never_more_than_the_largest(
    largest: int, steps: list[int | None]
) -> None:
    limit = BatchLimit(largest)
    for step in steps:
        if step is None:
            limit.grow(0.0)
        else:
            limit.exhausted(min(step, largest), 0.0)
        assert 1 <= limit.rows <= largest
        assert (limit.grows_at == math.inf) == (limit.rows == largest)
