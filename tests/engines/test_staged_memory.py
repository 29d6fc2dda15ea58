"""Batches that a GPU's memory does not suffice for: refused, and a smaller one is computed after them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import EAGER, LATE, FakeDriver, Order, fake_gpu
from fake_onnxruntime import OUT_OF_MEMORY, failure, fake_provider
from fake_tensorrt import opened, plan_of
from onnx import TensorProto
from onnx_models import Models

from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine

OUT = "CUDA_ERROR_OUT_OF_MEMORY"


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


@pytest.mark.parametrize("call", ["launch", "copy_in", "copy_out", "record"])
@pytest.mark.parametrize("order", [LATE, EAGER, 3])
def test_a_plans_batch_is_refused_and_those_beside_it_answered(
    models: Models, tmp_path: Path, call: str, order: Order
) -> None:
    plan = plan_of(models.adding(1), tmp_path, batches=[(1, 8, 8)])
    with FakeDriver(order) as driver, opened(plan, driver, max_batch_size=8) as engine:
        submit(engine, driver, 1, rows_of(2))
        driver.fail(call, OUT)
        with pytest.raises(MemoryExhausted):
            submit(engine, driver, 0, rows_of(7))
        submit(engine, driver, 0, rows_of(3))
        np.testing.assert_array_equal(wait(engine, driver, 1), rows_of(2) + 1)
        np.testing.assert_array_equal(wait(engine, driver, 0), rows_of(3) + 1)


def test_an_arena_that_is_full_refuses_a_batch(models: Models) -> None:
    with FakeDriver() as driver, fake_provider(driver) as provider:
        engine = OnnxRuntimeCudaEngine(models.adding(1), gpu=fake_gpu(driver), max_batch_size=8)
        with closing(engine):
            submit(engine, driver, 1, rows_of(2))
            provider.failures.append(failure(OUT_OF_MEMORY))
            with pytest.raises(MemoryExhausted):
                submit(engine, driver, 0, rows_of(7))
            submit(engine, driver, 0, rows_of(3))
            np.testing.assert_array_equal(wait(engine, driver, 1), rows_of(2) + 1)
            np.testing.assert_array_equal(wait(engine, driver, 0), rows_of(3) + 1)


def test_arrays_that_do_not_fit_are_refused(models: Models, tmp_path: Path) -> None:
    path = models.unary("Neg", TensorProto.FLOAT, ("N", "T"), ("N", "T"))
    x = np.ones((5, 7), np.float32)
    with FakeDriver() as driver, opened(plan_of(path, tmp_path), driver) as engine:
        driver.fail("enqueue", OUT)
        with pytest.raises(MemoryExhausted):
            engine.run([x])
        np.testing.assert_array_equal(engine.run([x[:2]])[0], -x[:2])
    with (
        FakeDriver() as driver,
        fake_provider(driver) as provider,
        closing(OnnxRuntimeCudaEngine(path, gpu=fake_gpu(driver), max_batch_size=8)) as other,
    ):
        provider.failures.append(failure(OUT_OF_MEMORY))
        with pytest.raises(MemoryExhausted):
            other.run([x])
        np.testing.assert_array_equal(other.run([x[:2]])[0], -x[:2])
