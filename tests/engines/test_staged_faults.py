"""What goes wrong on a fake GPU: a context that is spoilt, an engine made anew, every call that fails."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver, Misuse, fake_gpu
from fake_tensorrt import library, opened, plan_of
from onnx import TensorProto
from onnx_models import Models

from headrace_engines.errors import (
    DeviceError,
    EngineError,
    EngineSpoilt,
    ExecutionError,
    MemoryExhausted,
)
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


def test_the_batch_that_was_begun_may_have_spoilt_the_engine(plan: Path, driver: FakeDriver) -> None:
    with closing(loaded(plan, driver)) as engine:
        fill(engine, driver, 0, 4, 1)
        fill(engine, driver, 1, 4, 2)
        driver.fail("kernel", _ILLEGAL)
        for call, was_executed in ((lambda: engine.wait(0), True), (lambda: engine.wait(1), True)):
            with pytest.raises(EngineSpoilt, match=_ILLEGAL) as spoilt:
                call()
            assert spoilt.value.was_executed is was_executed
        with pytest.raises(EngineSpoilt) as spoilt:
            engine.submit(0, 1)
        assert not spoilt.value.was_executed
        engine.renew()
        fill(engine, driver, 0, 4, 3)
        check(engine, driver, 0, 4, 3)


def test_a_batch_behind_another_was_not_begun(plan: Path, driver: FakeDriver) -> None:
    with closing(loaded(plan, driver)) as engine:
        fill(engine, driver, 0, 4, 1)
        fill(engine, driver, 1, 4, 2)
        driver.fail("kernel", _ILLEGAL)
        with pytest.raises(EngineSpoilt) as spoilt:
            engine.wait(1)
        assert not spoilt.value.was_executed
        engine.renew()


def test_an_index_out_of_range_spoils_and_is_renewed(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    with opened(plan_of(models.embedding(), tmp_path), driver, max_batch_size=4) as engine:
        x = np.zeros((2, 3), np.float32)
        with pytest.raises(EngineSpoilt) as spoilt:
            engine.run([x, np.array([1, 99])])
        assert spoilt.value.was_executed
        engine.renew()
        np.testing.assert_array_equal(engine.run([x, np.array([0, 1])])[0], [[0, 1, 2], [3, 4, 5]])


def test_instances_are_renewed_one_by_one_over_one_plan(plan: Path, driver: FakeDriver) -> None:
    with closing(loaded(plan, driver)) as engine, closing(engine.replicate()) as twin:
        fill(engine, driver, 0, 4, 1)
        fill(twin, driver, 1, 2, 2)
        stale = twin.inputs(1)[0]
        driver.fail("kernel", _ILLEGAL)
        with pytest.raises(EngineSpoilt):
            engine.wait(0)
        engine.renew()
        fill(engine, driver, 0, 4, 3)
        with pytest.raises(EngineSpoilt, match="context has ended"):
            twin.wait(1)
        stale[:] = 0  # which a thread that has not heard of it may still do
        twin.renew()
        assert not np.shares_memory(stale, twin.inputs(1)[0])
        fill(twin, driver, 1, 2, 4)
        check(twin, driver, 1, 2, 4)
        check(engine, driver, 0, 4, 3)
        assert driver.calls["reset"] == 1


def test_an_engine_that_is_not_renewed_ends_all_the_same(plan: Path, driver: FakeDriver) -> None:
    with closing(loaded(plan, driver)) as engine, closing(engine.replicate()) as twin:
        driver.fail("kernel", _ILLEGAL)
        with pytest.raises(EngineSpoilt):
            engine.run([np.zeros((1, 3), np.float32)])
        engine.renew()
        with closing(twin.replicate()) as third:
            fill(third, driver, 0, 4, 1)
            check(third, driver, 0, 4, 1)
        with pytest.raises(EngineSpoilt):
            twin.submit(0, 1)


def test_a_plan_that_spoils_every_context_is_refused_and_leaves_a_fresh_one(
    plan: Path, driver: FakeDriver
) -> None:
    with closing(loaded(plan, driver)) as other:
        driver.fail("kernel", _ILLEGAL, times=2)
        gpu = other._gpu
        assert gpu.share()
        with pytest.raises(EngineSpoilt):
            TensorRtEngine(plan, library=library(driver), gpu=gpu, max_batch_size=4)
        other.renew()
        fill(other, driver, 0, 4, 1)
        check(other, driver, 0, 4, 1)


def test_a_renewal_that_fails_can_be_tried_again(plan: Path, driver: FakeDriver) -> None:
    with closing(loaded(plan, driver)) as engine:
        for _ in range(2):
            driver.fail("kernel", _ILLEGAL)
            with pytest.raises(EngineSpoilt):
                engine.run([np.zeros((1, 3), np.float32)])
            driver.fail("kernel", _ILLEGAL)
            with pytest.raises(EngineSpoilt):
                engine.renew()
            with pytest.raises(EngineSpoilt):
                engine.submit(0, 1)
            with pytest.raises(EngineSpoilt):
                engine.inputs(0)
            engine.renew()
            fill(engine, driver, 0, 4, 1)
            check(engine, driver, 0, 4, 1)


_ONCE = {"CUDA_ERROR_INVALID_VALUE": ExecutionError, "CUDA_ERROR_OUT_OF_MEMORY": MemoryExhausted}
_FAULTS = {**_ONCE, _ILLEGAL: EngineSpoilt, "CUDA_ERROR_ECC_UNCORRECTABLE": DeviceError}
_CALLS = (
    "allocate", "allocate_pinned", "begin_capture", "copy_in", "copy_out", "destroy_event", "destroy_graph",
    "destroy_stream", "end_capture", "enqueue", "event", "free", "free_bytes", "free_pinned", "kernel",
    "launch", "milliseconds", "push", "record", "stream", "synchronize", "wait_event", "zero",
)  # fmt: skip
_GIVING_BACK = ("destroy_event", "destroy_graph", "destroy_stream", "free", "free_pinned")


@pytest.fixture(scope="module")
def calls(plan: Path) -> Counter[str]:
    """How often each call is made where nothing goes wrong."""
    with FakeDriver() as driver:
        assert _served(plan, driver) == []
        return Counter({**driver.calls, "kernel": driver.calls["enqueue"]})


@pytest.mark.parametrize("share", [0.0, 0.7])
@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("name", _FAULTS)
def test_a_failure_of_any_call_leaves_no_leak_and_the_right_error(
    plan: Path, calls: Counter[str], call: str, name: str, share: float
) -> None:
    assert calls[call] > 0
    is_left = call in _GIVING_BACK and name in _ONCE
    with pytest.raises(Misuse, match="left when") if is_left else nullcontext(), FakeDriver() as driver:
        driver.fail(call, name, after=int(calls[call] * share))
        met = _served(plan, driver)
        kinds = (_FAULTS[name], EngineSpoilt) if name in _ONCE else (_FAULTS[name],)
        assert all(isinstance(error, kinds) for error in met)
        assert len(met) <= 1


def _served(plan: Path, driver: FakeDriver) -> list[EngineError]:
    """Load, answer four batches, replicate and close; return the errors that were met."""
    try:
        engine = loaded(plan, driver)
    except EngineError as error:
        return [error]
    met: list[EngineError] = []
    with closing(engine):
        for value in range(4):
            try:
                fill(engine, driver, value % 2, 3, value)
                check(engine, driver, value % 2, 3, value)
            except EngineSpoilt as error:
                met.append(error)
                engine.renew()
            except DeviceError as error:
                met.append(error)
                with pytest.raises(DeviceError):
                    engine.renew()
                return met
            except EngineError as error:
                met.append(error)
        try:
            engine.replicate().close()
        except EngineError as error:
            met.append(error)
    return met


@pytest.mark.parametrize(
    "call", ["copy_in", "copy_out", "enqueue", "kernel", "push", "record", "synchronize"]
)
@pytest.mark.parametrize("name", _FAULTS)
def test_what_has_no_slots_fails_as_well(models: Models, tmp_path: Path, call: str, name: str) -> None:
    path = models.unary("Neg", TensorProto.FLOAT, ("N", "T"), ("N", "T"))
    x = np.ones((3, 5), np.float32)
    with FakeDriver() as driver, opened(plan_of(path, tmp_path), driver) as engine:
        driver.fail(call, name)
        with pytest.raises((_FAULTS[name], EngineSpoilt) if name in _ONCE else _FAULTS[name]) as failure:
            engine.run([x])
        if failure.type is DeviceError:
            return
        if failure.type is EngineSpoilt:
            engine.renew()
        np.testing.assert_array_equal(engine.run([x])[0], -x)


def test_instances_in_threads_of_their_own_are_spoilt_and_renewed(plan: Path, driver: FakeDriver) -> None:
    first = loaded(plan, driver)
    engines = first, first.replicate()
    for after in (5, 21, 22, 40):
        driver.fail("kernel", _ILLEGAL, after=after)
    renewals = Counter[int]()
    problems: list[BaseException] = []

    def renewed(engine: TensorRtEngine) -> int:
        for attempt in range(1, 6):
            with suppress(EngineSpoilt):  # by the other, or while it is made anew
                engine.renew()
                return attempt
        raise AssertionError("five renewals were spoilt")

    def serve(engine: TensorRtEngine, me: int) -> None:
        try:
            with closing(engine):
                for value in range(20):
                    try:
                        fill(engine, driver, value % 2, 3, value)
                        check(engine, driver, value % 2, 3, value)
                    except EngineSpoilt:
                        renewals[me] += renewed(engine)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=serve, args=(engine, me)) for me, engine in enumerate(engines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert renewals.total() > 0
