"""Rows that stand on the GPU already take their places in a batch, between those that the host copies."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeDriver, present
from fake_memory import Bytes
from fake_onnxruntime import fake_provider
from fake_streams import EAGER, LATE, Order
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from headrace_engines.device_rows import DeviceRows, Placed
from headrace_engines.errors import EngineSpoilt, InputError
from headrace_engines.runtime.cuda.gpu import open_gpu
from headrace_engines.runtime.cuda.shared_memory import OpenedMemory, SharedMemory
from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine

WIDTH = 3
ROW_BYTES = 4 * WIDTH
MOST_ROWS = 8


class Rows(DeviceRows):
    """A part of another process's memory."""

    __slots__ = ("__weakref__", "_opened", "_range")

    def __init__(self, opened: OpenedMemory, first: int, count: int) -> None:
        self._opened = opened
        self._range = (first * ROW_BYTES, count * ROW_BYTES)

    gpu = 0

    def __len__(self) -> int:
        return self._range[1]

    def address(self) -> int:
        return self._opened.address() + self._range[0]

    def read(self) -> bytes:
        return self._opened.read(*self._range)


class Served:
    """An engine that negates rows, and another process's memory with as many rows as a batch has."""

    def __init__(self, driver: FakeDriver, engine: OnnxRuntimeCudaEngine, memory: SharedMemory) -> None:
        self.driver = driver
        self.engine = engine
        handle, self.theirs = driver.share(MOST_ROWS * ROW_BYTES)
        self.theirs[:] = (100 + np.arange(MOST_ROWS * WIDTH, dtype=np.float32)).view(np.uint8)
        self.opened = memory.open(0, handle, MOST_ROWS * ROW_BYTES)

    def rows(self, first: int, count: int) -> Rows:
        return Rows(self.opened, first, count)

    def submit(self, slot: int, counts: Sequence[tuple[int, bool]]) -> np.ndarray:
        """Submit parts of so many rows each, from the GPU or from the host; return what the batch holds."""
        (buffer,) = self.engine.inputs(slot)
        self.driver.inspect(buffer, writing=True)
        buffer[:] = -1
        batch = np.zeros((sum(count for count, _ in counts), WIDTH), np.float32)
        placed, row = [], 0
        for count, is_on_gpu in counts:
            part = slice(row, row + count)
            if is_on_gpu:
                placed.append(Placed(0, row * ROW_BYTES, self.rows(row, count)))
                batch[part] = as_rows(self.theirs)[part]
            else:
                buffer[part] = batch[part] = np.arange(count * WIDTH).reshape(count, WIDTH) + row
            row += count
        self.engine.submit(slot, len(batch), placed)
        return batch

    def wait(self, slot: int) -> np.ndarray:
        (output,) = self.engine.wait(slot)
        self.driver.inspect(output)
        return output


def as_rows(data: Bytes) -> np.ndarray:
    return data.view(np.float32).reshape(-1, WIDTH)


@contextlib.contextmanager
def serving(path: Path, order: Order = LATE) -> Iterator[Served]:
    with FakeDriver(order) as driver, present(driver), fake_provider(driver):
        memory = SharedMemory()
        engine = OnnxRuntimeCudaEngine(path, gpu=open_gpu(0), max_batch_size=MOST_ROWS)
        served = Served(driver, engine, memory)
        yield served
        engine.close()
        served.opened.close()
        memory.close()


@pytest.fixture(scope="session")
def negating(models) -> Path:
    return models.unary("Neg", TensorProto.FLOAT, ("N", WIDTH), ("N", WIDTH))


@settings(max_examples=40, deadline=None)
@given(
    order=st.one_of(st.sampled_from([LATE, EAGER]), st.integers(0, 1000)),
    batches=st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=3).filter(
            lambda counts: sum(count for count, _ in counts) <= MOST_ROWS
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_every_row_is_in_its_place_wherever_it_comes_from(
    negating: Path, order: Order, batches: list[list[tuple[int, bool]]]
) -> None:
    with serving(negating, order) as served:
        flying: list[tuple[int, np.ndarray]] = []
        for number, counts in enumerate(batches):
            if len(flying) == 2:
                slot, batch = flying.pop(0)
                np.testing.assert_array_equal(served.wait(slot), -batch)
            flying.append((number % 2, served.submit(number % 2, counts)))
        for slot, batch in flying:
            np.testing.assert_array_equal(served.wait(slot), -batch)


def test_what_stands_on_the_gpu_does_not_pass_through_the_host(negating: Path) -> None:
    with serving(negating) as served:
        before = dict(served.driver.calls)
        served.submit(0, [(8, True)])
        served.wait(0)
        assert served.driver.calls["copy_in"] == before["copy_in"]
        served.submit(0, [(2, True), (1, False), (3, True)])
        served.wait(0)
        assert served.driver.calls["copy_in"] == before["copy_in"] + 1
        assert served.driver.calls["copy_within"] == before.get("copy_within", 0) + 3


def test_rows_are_held_on_to_until_the_gpu_has_read_them(negating: Path) -> None:
    with serving(negating) as served:
        rows = served.rows(0, 2)
        held = weakref.ref(rows)
        served.engine.submit(0, 2, [Placed(0, 0, rows)])
        del rows
        assert held() is not None
        served.wait(0)
        assert held() is None


def test_rows_that_are_gone_fail_their_batch_and_nothing_else(negating: Path) -> None:
    with serving(negating) as served:
        served.engine.renew()
        exported = dict(served.driver._exported)
        served.driver._exported.clear()
        with pytest.raises(InputError, match="cannot be opened"):
            served.submit(0, [(1, False), (2, True)])
        served.driver._exported.update(exported)
        batch = served.submit(0, [(1, False), (2, True)])
        np.testing.assert_array_equal(served.wait(0), -batch)


def test_rows_are_found_again_in_a_fresh_context(negating: Path) -> None:
    with serving(negating) as served:
        served.driver.fail("kernel", "CUDA_ERROR_ILLEGAL_ADDRESS")
        batch = served.submit(0, [(2, True), (1, False)])
        with pytest.raises(EngineSpoilt):
            served.wait(0)
        served.engine.renew()
        again = served.submit(1, [(2, True), (1, False)])
        np.testing.assert_array_equal(again, batch)
        np.testing.assert_array_equal(served.wait(1), -batch)
