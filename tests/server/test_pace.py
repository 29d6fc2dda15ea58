from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.core.pace import Pace

QUICK_NS, SLOW_NS, LONG_NS = 50_000, 900_000, 2_000_000_000
Batches = Sequence[tuple[int, int]]
"""Rows, and how long they kept the thread busy."""


def after(batches: Batches) -> Pace:
    pace = Pace()
    for rows, busy_ns in batches:
        pace.took(rows, busy_ns)
    return pace


@pytest.mark.parametrize(
    ("batches", "quick_rows"),
    [
        ([], 0),
        ([(1, QUICK_NS)] * 15, 0),
        ([(1, QUICK_NS)] * 16, 1),
        ([(5, QUICK_NS)] * 16, 7),
        ([(1, QUICK_NS)] * 16 + [(64, SLOW_NS)] * 9, 1),
        ([(1, QUICK_NS)] * 16 + [(64, QUICK_NS)] * 16, 127),
        ([(1, QUICK_NS)] * 16 + [(1, SLOW_NS)], 0),
        ([(1, QUICK_NS)] * 16 + [(1, SLOW_NS)] + [(1, QUICK_NS)] * 16, 1),
        ([(1, LONG_NS)] + [(1, QUICK_NS)] * 31, 0),
        ([(1, LONG_NS)] + [(1, QUICK_NS)] * 32, 1),
        ([(4, LONG_NS)] + [(8, QUICK_NS)] * 16, 0),
        ([(4, SLOW_NS)] + [(8, QUICK_NS)] * 16, 15),
        ([(8, QUICK_NS)] * 16 + [(4, LONG_NS)], 0),
    ],
)
def test_rows_are_quick_that_were_so_often_enough(batches: Batches, quick_rows: int) -> None:
    assert after(batches).quick_rows == quick_rows


def test_batches_that_are_long_now_and_then_are_trusted_less_each_time() -> None:
    pace, surprises = Pace(), 0
    for number in range(100_000):
        is_long = number % 120 == 0
        surprises += is_long and pace.quick_rows > 0
        pace.took(1, LONG_NS if is_long else QUICK_NS)
    assert surprises <= 4


def test_a_long_batch_is_forgiven_in_the_end() -> None:
    pace = after([(1, LONG_NS)] * 3 + [(1, QUICK_NS)] * 20_000 + [(1, SLOW_NS)] + [(1, QUICK_NS)] * 16)
    assert pace.quick_rows == 1


def test_a_size_that_was_always_long_is_trusted_after_a_bounded_number_of_quick_batches() -> None:
    pace = after([(1, LONG_NS)] * 100 + [(1, QUICK_NS)] * ((1 << 16) - 1))
    assert pace.quick_rows == 0
    pace.took(1, QUICK_NS)
    assert pace.quick_rows == 1


@given(st.lists(st.tuples(st.integers(1, 64), st.sampled_from([QUICK_NS, SLOW_NS, LONG_NS])), min_size=1))
def test_no_size_is_quick_that_has_just_been_long(batches: Batches) -> None:
    pace = after(batches)
    rows, busy_ns = batches[-1]
    assert busy_ns != LONG_NS or pace.quick_rows < rows
