"""Bounds on the memory of a process's batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.cuda import pools
from headrace_engines.runtime.cuda.pools import Pools


@pytest.fixture
def unbounded() -> Iterator[None]:
    yield
    pools.configure()


def test_each_gpu_has_its_own_bound() -> None:
    made = Pools(device_limit_bytes={1: 100})
    made.take_device(0, 1000)
    made.take_device(1, 100)
    with pytest.raises(MemoryExhausted, match=r"1 bytes of memory of GPU 1 .* 100 are in use"):
        made.take_device(1, 1)
    made.give_device(1, 60)
    made.take_device(1, 60)
    assert (made.device_bytes(0), made.device_bytes(1), made.device_bytes(2)) == (1000, 100, 0)


def test_what_is_refused_is_not_counted() -> None:
    made = Pools(100)
    with pytest.raises(MemoryExhausted, match="pinned host memory"):
        made.take_pinned(101)
    made.take_pinned(100)
    assert made.pinned_bytes() == 100


def test_bounds_are_set_before_anything_is_allocated(unbounded: None) -> None:
    pools.configure(100, {0: 200})
    with pytest.raises(MemoryExhausted):
        pools.current().take_pinned(101)
    pools.current().take_device(0, 200)
    with pytest.raises(RuntimeError, match="before the first model"):
        pools.configure()
    pools.current().give_device(0, 200)
