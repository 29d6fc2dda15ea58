"""What execution contexts and arenas take of a GPU's memory: counted, told, and bounding the batch sizes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeDriver, fake_gpu
from fake_onnxruntime import fake_provider
from fake_tensorrt import library, plan_of
from fake_tensorrt_library import ACTIVATION_BYTES, CONTEXT_BYTES
from onnx import TensorProto
from onnx_models import Models

from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.cuda.pools import Pools
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine
from headrace_engines.runtime.tensorrt.engine import TensorRtEngine

WEIGHT_BYTES = 1024
BUFFER_BYTES = 2 * 64 * (3 + 3) * 4
OUT = "CUDA_ERROR_OUT_OF_MEMORY"


@pytest.fixture(scope="module")
def plan(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plan_of(models.adding(1), tmp_path_factory.mktemp("plans"))


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver() as driver:
        yield driver


def loaded(plan: Path, driver: FakeDriver, pools: Pools | None = None) -> TensorRtEngine:
    return TensorRtEngine(plan, library=library(driver), gpu=fake_gpu(driver, pools))


def check_all(engine: TensorRtEngine) -> None:
    for rows in (1, 5, 8, 33, 64):
        for slot in (0, 1):
            engine.inputs(slot)[0][:rows] = rows
            engine.submit(slot, rows)
            np.testing.assert_array_equal(engine.wait(slot)[0], np.full((rows, 3), rows + 1))


def test_contexts_are_counted_and_told(
    plan: Path, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    pools = Pools()
    with caplog.at_level(logging.INFO), closing(loaded(plan, driver, pools)) as engine:
        sizes = engine.spec.batch_sizes
        contexts = 2 * len(sizes) * CONTEXT_BYTES
        assert engine.memory_bytes == BUFFER_BYTES + ACTIVATION_BYTES + contexts
        assert pools.device_bytes(0) == engine.memory_bytes
        told = f"take {contexts} bytes of GPU 0, besides {ACTIVATION_BYTES} for activations"
        assert any(told in line for line in caplog.messages)
        engine.renew()
        assert pools.device_bytes(0) == engine.memory_bytes
        assert engine.spec.batch_sizes == sizes
    assert pools.is_unused


@pytest.mark.parametrize(
    ("free_bytes", "sizes"),
    [
        (8 * 8 * CONTEXT_BYTES, (1, 2, 4, 8, 16, 32, 64)),
        (8 * 4 * CONTEXT_BYTES, (8, 16, 32, 64)),
        (600, (64,)),
    ],
)
def test_contexts_take_a_part_of_what_is_free(plan: Path, free_bytes: int, sizes: tuple[int, ...]) -> None:
    total = BUFFER_BYTES + WEIGHT_BYTES + ACTIVATION_BYTES + free_bytes
    with FakeDriver(total_bytes=total) as driver, closing(loaded(plan, driver)) as engine:
        assert engine.spec.batch_sizes == sizes
        check_all(engine)
        if free_bytes < 1000:
            with pytest.raises(MemoryExhausted):
                engine.replicate()


def test_the_bound_is_for_contexts_too(plan: Path, driver: FakeDriver) -> None:
    pools = Pools(device_limit_bytes={0: BUFFER_BYTES + ACTIVATION_BYTES + 6 * CONTEXT_BYTES})
    with closing(loaded(plan, driver, pools)) as engine:
        assert engine.spec.batch_sizes == (16, 32, 64)
        check_all(engine)
    pools = Pools(device_limit_bytes={0: BUFFER_BYTES + ACTIVATION_BYTES + CONTEXT_BYTES - 1})
    with pytest.raises(MemoryExhausted, match="--cuda-memory-pool-byte-size allows"):
        loaded(plan, driver, pools)
    assert pools.is_unused


def test_a_size_that_one_slot_lacks_is_left_out_of_all(plan: Path) -> None:
    with FakeDriver() as driver:
        loaded(plan, driver).close()
        allocations = driver.calls["allocate"]
    with FakeDriver() as driver:
        driver.fail("allocate", OUT, after=allocations - 1)
        with closing(loaded(plan, driver)) as engine:
            assert engine.spec.batch_sizes == (2, 4, 8, 16, 32, 64)
            check_all(engine)


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "launch"])
def test_sizes_that_a_fresh_context_has_no_memory_for_come_back_in_the_next(
    plan: Path, driver: FakeDriver, call: str
) -> None:
    with closing(loaded(plan, driver)) as engine:
        sizes = engine.spec.batch_sizes
        destroyed = driver.calls["destroy_graph"]
        driver.fail(call, OUT, after=2)
        engine.renew()
        assert engine.spec.batch_sizes == sizes[-2:]
        assert driver.calls["destroy_graph"] - destroyed == (call == "launch")
        before = driver.calls["launch"]
        check_all(engine)
        assert driver.calls["launch"] - before == 10, "the sizes that are there keep their graphs"
        engine.renew()
        assert engine.spec.batch_sizes == sizes
        check_all(engine)


def test_sizes_of_a_session_come_back_too(models: Models) -> None:
    with FakeDriver() as driver, fake_provider(driver):
        path = models.adding(1)
        with closing(OnnxRuntimeCudaEngine(path, gpu=fake_gpu(driver), max_batch_size=8)) as engine:
            sizes = engine.spec.batch_sizes
            driver.fail("enqueue", OUT, after=3)
            engine.renew()
            assert engine.spec.batch_sizes == (8,)
            engine.renew()
            assert engine.spec.batch_sizes == sizes == (1, 2, 4, 8)


def test_what_a_library_keeps_is_counted_though_the_bound_refuses_it(driver: FakeDriver) -> None:
    def refuse(growing: None) -> None:
        raise MemoryExhausted("the arena is full")

    pools = Pools(device_limit_bytes={0: 100})
    gpu = fake_gpu(driver, pools)
    holdings = Holdings(gpu)
    with gpu.use(1) as inside:
        free_bytes, taken = inside.free_bytes(), []
        with (
            pytest.raises(MemoryExhausted, match="allows 100"),
            holdings.counting(inside, lambda: inside.free(taken.pop())),
        ):
            taken += [inside.allocate(300), inside.allocate(500)]
        with pytest.raises(MemoryExhausted, match="the arena is full"), holdings.counting(inside):
            refuse(taken.append(inside.allocate(700)))
        assert pools.device_bytes(0) == holdings.device_bytes == free_bytes - inside.free_bytes() >= 1000
        for address in taken:
            inside.free(address)
        holdings.close(inside)
    gpu.close()
    assert pools.is_unused


def test_two_threads_that_claim_at_once_have_claims_of_their_own(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = Pools()
    gpu = fake_gpu(driver, pools)
    other: list[int] = []

    class Claims(dict[int, int]):
        def __setitem__(self, claim: int, size_bytes: int) -> None:
            super().__setitem__(claim, size_bytes)
            if size_bytes == 10:
                other.append(gpu.memory.claim(20))

    monkeypatch.setattr(gpu.memory, "_claims", Claims())
    gpu.memory.disclaim(gpu.memory.claim(10))
    assert pools.device_bytes(0) == 20
    gpu.memory.disclaim(other[0])
    assert pools.is_unused
    gpu.close()


def test_an_arena_is_counted_as_it_grows(models: Models) -> None:
    pools = Pools()
    with FakeDriver() as driver, fake_provider(driver) as provider:
        provider.arena_bytes = 500
        gpu = fake_gpu(driver, pools)
        with closing(OnnxRuntimeCudaEngine(models.adding(1), gpu=gpu)) as engine:
            assert engine.memory_bytes == BUFFER_BYTES + 500
            assert pools.device_bytes(0) == engine.memory_bytes
        assert pools.is_unused


def test_the_context_of_a_plan_without_slots_is_counted(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    plan = plan_of(models.unary("Neg", TensorProto.FLOAT, (2, 3), (2, 3)), tmp_path)
    with closing(loaded(plan, driver)) as engine:
        assert engine.memory_bytes == 2 * 2 * 3 * 4 + ACTIVATION_BYTES + CONTEXT_BYTES
