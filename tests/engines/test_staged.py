"""Batches on their way through a fake GPU: both slots in any order, and everything that can go wrong there.

The plans add 1. The fake driver does work as late as it may, at once, or in a random order, and fails the
test where something is used too early, or twice, or not given back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import EAGER, LATE, FakeDriver, Order, fake_gpu
from fake_tensorrt import library, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import Models

from headrace_engines.runtime.tensorrt.engine import TensorRtEngine

_ILLEGAL = "CUDA_ERROR_ILLEGAL_ADDRESS"


@pytest.fixture(scope="module")
def plan(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plan_of(models.adding(1), tmp_path_factory.mktemp("plans"), batches=[(1, 8, 8)])


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver() as driver:
        yield driver


def loaded(plan: Path, driver: FakeDriver, **traits: Any) -> TensorRtEngine:
    by = library(driver, **traits)
    return TensorRtEngine(plan, library=by, gpu=fake_gpu(driver), max_batch_size=4)


def fill(engine: TensorRtEngine, driver: FakeDriver, slot: int, rows: int, value: float) -> None:
    (buffer,) = engine.inputs(slot)
    driver.inspect(buffer[:rows], writing=True)
    buffer[:rows] = value
    engine.submit(slot, rows)


def check(engine: TensorRtEngine, driver: FakeDriver, slot: int, rows: int, value: float) -> None:
    (answer,) = engine.wait(slot)
    driver.inspect(answer)
    assert answer.shape == (rows, 3)
    np.testing.assert_array_equal(answer, value + 1)


_ORDERS = st.one_of(st.sampled_from([LATE, EAGER]), st.integers(0, 1000))
_STEPS = st.lists(st.tuples(st.sampled_from(["slot 0", "slot 1", "run"]), st.integers(1, 4)), max_size=12)


@settings(max_examples=50)
@given(order=_ORDERS, steps=_STEPS, capturable=st.booleans())
def test_batches_in_any_order_get_their_own_answers(
    plan: Path, order: Order, steps: list[tuple[str, int]], capturable: bool
) -> None:
    with FakeDriver(order) as driver, closing(loaded(plan, driver, capturable=capturable)) as engine:
        flying: dict[int, tuple[int, int]] = {}
        for value, (step, rows) in enumerate(steps):
            if step == "run":
                if len(flying) < 2:
                    (answer,) = engine.run([np.full((rows, 3), value, np.float32)])
                    np.testing.assert_array_equal(answer, np.full((rows, 3), value + 1))
                continue
            slot = int(step[-1])
            if slot in flying:
                check(engine, driver, slot, *flying.pop(slot))
            fill(engine, driver, slot, rows, value)
            flying[slot] = rows, value
        for slot, (rows, value) in flying.items():
            check(engine, driver, slot, rows, value)


def test_batches_in_flight_are_waited_for_before_the_end(plan: Path, driver: FakeDriver) -> None:
    with closing(loaded(plan, driver)) as engine:
        fill(engine, driver, 0, 4, 1)
        fill(engine, driver, 1, 3, 2)


def test_one_thread_loads_and_another_computes(plan: Path, driver: FakeDriver) -> None:
    engine = loaded(plan, driver)
    problems: list[BaseException] = []

    def serve() -> None:
        try:
            fill(engine, driver, 0, 4, 1)
            check(engine, driver, 0, 4, 1)
            engine.close()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert problems == []


def test_nothing_is_allocated_for_a_batch(plan: Path, driver: FakeDriver) -> None:
    with closing(loaded(plan, driver)) as engine:
        made = ("allocate", "allocate_pinned", "stream", "event", "end_capture")
        before = [driver.calls[call] for call in made]
        copies = driver.calls["copy_in"], driver.calls["copy_out"]
        fill(engine, driver, 0, 3, 1)
        check(engine, driver, 0, 3, 1)
        assert [driver.calls[call] for call in made] == before
        assert (driver.calls["copy_in"], driver.calls["copy_out"]) == (copies[0] + 1, copies[1] + 1)
