"""Batch sizes by how long they take."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.gpu_sizes import MOST_SIZES, chosen_sizes


def chosen(least: int, most: int, milliseconds: float) -> tuple[int, ...]:
    """Choose where every size takes as long."""
    return chosen_sizes(least, most, lambda size: milliseconds)


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (1, 1, (1,)),
        (1, 2, (1, 2)),
        (1, 48, (1, 2, 4, 8, 16, 32, 48)),
        (3, 20, (3, 4, 8, 16, 20)),
        (5, 5, (5,)),
        (1, 1024, tuple(1 << exponent for exponent in range(11))),
    ],
)
def test_padding_that_costs_nothing_needs_no_sizes(least: int, most: int, expected: tuple[int, ...]) -> None:
    assert chosen(least, most, 0.3) == expected


def test_steps_come_where_the_next_size_takes_longer() -> None:
    assert chosen_sizes(1, 32, lambda size: max(size, 16)) == (1, 2, 4, 8, 16, 18, 20, 24, 28, 32)
    assert chosen_sizes(1, 8, lambda size: 1.0 if size < 8 else 1.09) == (1, 2, 4, 8)
    assert chosen_sizes(1, 8, lambda size: 1.0 if size < 8 else 1.11) == (1, 2, 4, 6, 7, 8)


def full_at(*sizes: int) -> Callable[[int], float]:
    """Return how long sizes take that are too large for the memory if they are among these."""

    def milliseconds(size: int) -> float:
        if size in sizes:
            raise MemoryExhausted("no more")
        return float(size)

    return milliseconds


def test_sizes_end_where_memory_does() -> None:
    assert chosen_sizes(1, 16, full_at(4)) == (8, 16)
    assert chosen_sizes(1, 16, full_at(12)) == (1, 2, 4, 8, 16)
    rooms = iter([True, True, False])
    assert chosen_sizes(1, 16, float, lambda: next(rooms)) == (4, 8, 16)
    with pytest.raises(MemoryExhausted):
        chosen_sizes(1, 16, full_at(16))


@given(
    least=st.integers(1, 8), extra=st.integers(0, 600), times=st.dictionaries(st.integers(), st.floats(0, 9))
)
def test_whatever_is_measured_the_sizes_serve_every_batch(
    least: int, extra: int, times: dict[int, float]
) -> None:
    measured: Counter[int] = Counter()

    def milliseconds(size: int) -> float:
        measured[size] += 1
        return times.get(size % 7, float(size))

    most = least + extra
    sizes = chosen_sizes(least, most, milliseconds)
    assert list(sizes) == sorted(measured)
    assert set(measured.values()) == {1}
    assert (sizes[0], sizes[-1]) == (least, most)
    assert len(sizes) <= MOST_SIZES
    assert all(above <= 2 * below or below < least * 2 for below, above in itertools.pairwise(sizes))
