"""Batches that a GPU's memory does not suffice for: executed in parts, and no larger from then on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import EAGER, LATE, FakeDriver, Order, fake_gpu
from fake_onnxruntime import OUT_OF_MEMORY, failure, fake_provider
from fake_tensorrt import library, opened, plan_of
from onnx import TensorProto
from onnx_models import Models

from headrace_engines.device_rows import DeviceRows, Placed
from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine
from headrace_engines.runtime.tensorrt.engine import TensorRtEngine

OUT = "CUDA_ERROR_OUT_OF_MEMORY"


class There(DeviceRows):
    """Rows that stand on the fake GPU."""

    gpu = 0

    def __init__(self, address: int, size_bytes: int) -> None:
        self._address = address
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def address(self) -> int:
        return self._address

    def read(self) -> bytes:
        raise NotImplementedError


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver() as driver:
        yield driver


def loaded(models: Models, folder: Path, driver: FakeDriver, most: int = 8) -> TensorRtEngine:
    plan = plan_of(models.adding(1), folder, batches=[(1, 8, 8)])
    return TensorRtEngine(plan, library=library(driver), gpu=fake_gpu(driver), max_batch_size=most)


def rows_of(count: int) -> np.ndarray[Any, Any]:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


def submit(engine: Any, driver: FakeDriver, slot: int, rows: np.ndarray[Any, Any]) -> None:
    (buffer,) = engine.inputs(slot)
    driver.inspect(buffer[: len(rows)], writing=True)
    buffer[: len(rows)] = rows
    engine.submit(slot, len(rows))


def wait(engine: Any, driver: FakeDriver, slot: int) -> np.ndarray[Any, Any]:
    (answer,) = engine.wait(slot)
    driver.inspect(answer)
    return np.array(answer)


@pytest.mark.parametrize("order", [LATE, EAGER, 3])
def test_a_batch_that_does_not_fit_is_computed_in_parts(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture, order: Order
) -> None:
    with FakeDriver(order) as driver, closing(loaded(models, tmp_path, driver)) as engine:
        submit(engine, driver, 1, rows_of(2))
        driver.fail("launch", OUT, times=2)
        submit(engine, driver, 0, rows_of(7))
        np.testing.assert_array_equal(wait(engine, driver, 0), rows_of(7) + 1)
        np.testing.assert_array_equal(wait(engine, driver, 1), rows_of(2) + 1)
        assert engine.times(0) is None
        assert [line.partition(" are executed")[0] for line in caplog.messages if "too many" in line] == [
            "GPU 0: 8 rows at once are too many for its memory, and 4",
            "GPU 0: 4 rows at once are too many for its memory, and 2",
        ]
        launches = driver.calls["launch"]
        for rows in (8, 2):
            submit(engine, driver, 0, rows_of(rows))
            np.testing.assert_array_equal(wait(engine, driver, 0), rows_of(rows) + 1)
        assert driver.calls["launch"] == launches + 5
        assert engine.times(0) is not None


def test_rows_that_stand_on_the_gpu_are_found_in_parts_too(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    rows = rows_of(8)
    with closing(loaded(models, tmp_path, driver)) as engine:
        gpu = engine._gpu
        with gpu.use(1) as inside:
            there = gpu.memory.allocate(5 * 12)
            stream, event = inside.stream(), inside.event()
            host = gpu.memory.allocate_pinned(5 * 12)
            host[:] = rows[1:6].reshape(-1).view(np.uint8)
            inside.copy_in(there, host, stream)
            inside.record(event, stream)
            inside.synchronize(event)
        (buffer,) = engine.inputs(0)
        buffer[:] = rows
        buffer[1:6] = -1
        driver.fail("launch", OUT, times=2)
        engine.submit(0, 8, [Placed(0, 12, There(there, 2 * 12)), Placed(0, 36, There(there + 24, 3 * 12))])
        np.testing.assert_array_equal(wait(engine, driver, 0), rows + 1)
        host_answer = engine._staging.buffers(0)[1][0].host  # type: ignore[union-attr]  # it is staged
        twin = gpu.twins.find(host_answer, gpu.generation)
        assert twin is not None
        with gpu.use(1) as inside:
            back = gpu.memory.allocate_pinned(8 * 12)
            inside.copy_out(back, twin, stream)
            inside.record(event, stream)
            inside.synchronize(event)
            np.testing.assert_array_equal(back.view(np.float32).reshape(8, 3), rows + 1)
            for memory in (host, back):
                gpu.memory.free_pinned(memory)
            gpu.memory.free(there)
            inside.destroy_event(event)
            inside.destroy_stream(stream)


def test_a_row_that_does_not_fit_is_refused(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    with closing(loaded(models, tmp_path, driver, 2)) as engine:
        driver.fail("launch", OUT, times=2)
        with pytest.raises(MemoryExhausted):
            submit(engine, driver, 0, rows_of(2))
        submit(engine, driver, 0, rows_of(2))
        np.testing.assert_array_equal(wait(engine, driver, 0), rows_of(2) + 1)


def test_a_renewed_engine_tries_whole_batches_again(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    with closing(loaded(models, tmp_path, driver)) as engine:
        driver.fail("launch", OUT)
        submit(engine, driver, 0, rows_of(8))
        wait(engine, driver, 0)
        engine.renew()
        submit(engine, driver, 0, rows_of(8))
        np.testing.assert_array_equal(wait(engine, driver, 0), rows_of(8) + 1)
        assert engine.times(0) is not None


def test_arrays_that_do_not_fit_are_executed_in_halves(
    models: Models, tmp_path: Path, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    path = models.unary("Neg", TensorProto.FLOAT, ("N", "T"), ("N", "T"))
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    with opened(plan_of(path, tmp_path), driver) as engine:
        driver.fail("enqueue", OUT, times=2)
        np.testing.assert_array_equal(engine.run([x])[0], -x)
        assert len([line for line in caplog.messages if "in halves" in line]) == 2
        driver.fail("enqueue", OUT)
        with pytest.raises(MemoryExhausted):
            engine.run([x[:1]])


def test_an_arena_that_is_full_takes_parts(models: Models) -> None:
    with FakeDriver() as driver, fake_provider(driver) as provider:
        engine = OnnxRuntimeCudaEngine(models.adding(1), gpu=fake_gpu(driver), max_batch_size=8)
        with closing(engine):
            provider.failures.append(failure(OUT_OF_MEMORY))
            submit(engine, driver, 0, rows_of(7))
            np.testing.assert_array_equal(wait(engine, driver, 0), rows_of(7) + 1)


def test_an_arena_that_is_full_takes_halves_of_arrays(models: Models) -> None:
    path = models.unary("Neg", TensorProto.FLOAT, ("N", "T"), ("N", "T"))
    x = np.ones((4, 2), np.float32)
    with (
        FakeDriver() as driver,
        fake_provider(driver) as provider,
        closing(OnnxRuntimeCudaEngine(path, gpu=fake_gpu(driver), max_batch_size=8)) as engine,
    ):
        provider.failures += [failure(OUT_OF_MEMORY), failure(OUT_OF_MEMORY)]
        np.testing.assert_array_equal(engine.run([x])[0], -x)
