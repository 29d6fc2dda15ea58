"""Plans as engines, on a fake GPU whose TensorRT computes with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver, fake_gpu
from fake_tensorrt import library, opened, plan_of
from onnx import TensorProto, helper
from onnx_models import Models

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import (
    DeviceError,
    EngineError,
    EngineSpoilt,
    ExecutionError,
    UnsupportedModelError,
)
from headrace_engines.plans.nvidia import RTX, TENSORRT
from headrace_engines.reshaping import ReshapingEngine
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.tensorrt.engine import TensorRtEngine
from headrace_engines.runtime.tensorrt.graphs import captured
from headrace_engines.spec import ANY, ModelSpec, TensorSpec

FLOAT = np.dtype(np.float32)


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver() as driver:
        yield driver


def staged(engine: Any, *arrays: np.ndarray[Any, Any], slot: int = 0) -> tuple[np.ndarray[Any, Any], ...]:
    rows = len(arrays[0])
    for buffer, array in zip(engine.inputs(slot), arrays, strict=True):
        buffer[:rows] = array
    engine.submit(slot, rows)
    return engine.wait(slot)


def test_spec_of_a_batched_plan(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    plan = plan_of(models.mlp((4, 8, 3)), tmp_path, batches=[(1, 4, 4), (5, 48, 48)])
    flat = library(driver, milliseconds=lambda rows: 0.1)
    with opened(plan, driver, by=flat) as engine:
        assert engine.spec == ModelSpec(
            inputs=(TensorSpec("x", FLOAT, (4,)),),
            outputs=(TensorSpec("y", FLOAT, (3,)),),
            max_batch_size=48,
            batch_sizes=(1, 2, 4, 8, 16, 32, 48),
        )
        assert (engine.platform, engine.slots, engine.computes_on_caller) == ("tensorrt_plan", 2, False)
        assert engine.device is engine
        assert engine.gpu == 0


def test_every_number_of_rows_answers_its_own(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    with opened(plan_of(models.mlp((4, 8, 3)), tmp_path), driver, max_batch_size=20) as engine:
        (whole,) = engine.run([x])
        for rows in range(1, 21):
            (y,) = staged(engine, x[:rows], slot=rows % 2)
            assert y.shape == (rows, 3)
            np.testing.assert_allclose(y, whole[:rows], rtol=1e-5)


@pytest.mark.parametrize(
    ("batches", "most", "sizes"),
    [
        ([(1, 1, 1), (2, 4, 4)], 64, (1, 2, 4)),
        ([(1, 1, 1), (4, 8, 8)], 64, (4, 8)),
        ([(3, 3, 5), (2, 8, 8)], 6, (2, 4, 6)),
    ],
)
def test_sizes_that_the_profiles_take(
    models: Models, tmp_path: Path, driver: FakeDriver, batches: list[Any], most: int, sizes: tuple[int, ...]
) -> None:
    with opened(plan_of(models.adding(1), tmp_path, batches=batches), driver, max_batch_size=most) as engine:
        assert engine.spec.batch_sizes == sizes
        for rows in range(1, sizes[-1] + 1):
            np.testing.assert_array_equal(staged(engine, np.ones((rows, 3), np.float32))[0], 2)
    small = plan_of(models.adding(1), tmp_path, batches=[(4, 8, 8)])
    complaint = "takes batches of 4 to 8 rows, and 3 are allowed"
    with pytest.raises(UnsupportedModelError, match=complaint), opened(small, driver, max_batch_size=3):
        pass


def test_padding_and_rows_of_earlier_batches_are_not_answered(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    plan = plan_of(models.embedding(), tmp_path)
    with opened(plan, driver, by=library(driver, milliseconds=lambda rows: 0.1), max_batch_size=8) as engine:
        assert engine.spec.batch_sizes == (1, 2, 4, 8)
        for slot in (0, 1):
            staged(engine, np.full((8, 3), 7, np.float32), np.full(8, 6), slot=slot)
            score, label = staged(engine, np.zeros((3, 3), np.float32), np.array([0, 3, 6]), slot=slot)
            np.testing.assert_array_equal(score, [[0, 1, 2], [9, 10, 11], [18, 19, 20]])
            np.testing.assert_array_equal(label, [2, 2, 2])


def test_sizes_are_denser_where_padding_costs(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    by = library(driver, milliseconds=lambda rows: max(rows, 16) * 0.01)
    with opened(plan_of(models.mlp(), tmp_path), driver, by=by, max_batch_size=32) as engine:
        assert engine.spec.batch_sizes == (1, 2, 4, 8, 16, 18, 20, 24, 28, 32)
        staged(engine, np.zeros((17, 4), np.float32))
        times = engine.times(0)
        assert times is not None
        assert times.compute_ns == pytest.approx(180_000, abs=1)
        assert times.copy_in_ns > 0 < times.copy_out_ns


@pytest.mark.parametrize(
    ("name", "capturable"), [(TENSORRT, True), (RTX, True), (TENSORRT, False), (RTX, False)]
)
def test_graphs_where_the_library_lets_them_be(
    models: Models,
    tmp_path: Path,
    driver: FakeDriver,
    caplog: pytest.LogCaptureFixture,
    name: str,
    capturable: bool,
) -> None:
    by = library(driver, name, capturable=capturable)
    plan = plan_of(models.mlp(), tmp_path, by=by, architecture="any" if name == RTX else "sm90")
    with opened(plan, driver, by=by, max_batch_size=4) as engine:
        before = driver.calls["launch"]
        staged(engine, np.zeros((3, 4), np.float32))
        assert (driver.calls["launch"] > before) is capturable
    told = [line for line in caplog.messages if "without CUDA graphs" in line]
    assert len(told) == (0 if capturable else 1)


def test_a_graph_that_answers_otherwise_is_not_used(
    models: Models, tmp_path: Path, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    by = library(driver, differs_in_graphs=True)
    x = np.ones((2, 4), np.float32)
    with opened(plan_of(models.mlp(), tmp_path), driver, by=by, max_batch_size=4) as engine:
        (found,) = staged(engine, x)
        found = found.copy()
    with opened(plan_of(models.mlp(), tmp_path), driver, max_batch_size=4) as engine:
        np.testing.assert_array_equal(staged(engine, x)[0], found)
    assert [line for line in caplog.messages if "otherwise" in line] != []


@pytest.mark.parametrize(
    ("call", "error"),
    [("begin_capture", "CUDA_ERROR_NOT_SUPPORTED"), ("launch", "CUDA_ERROR_INVALID_VALUE")],
)
def test_what_cannot_be_done_of_graphs_is_executed_without(
    models: Models, tmp_path: Path, driver: FakeDriver, call: str, error: str
) -> None:
    driver.fail(call, error, times=1)
    with opened(plan_of(models.mlp(), tmp_path), driver, max_batch_size=4) as engine:
        assert staged(engine, np.zeros((3, 4), np.float32))[0].shape == (3, 3)
        assert driver.calls["begin_capture"] == 1


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "launch"])
def test_a_graph_of_the_largest_size_that_there_is_no_memory_for_is_the_only_one_left_out(
    models: Models, tmp_path: Path, driver: FakeDriver, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    driver.fail(call, "CUDA_ERROR_OUT_OF_MEMORY")
    with opened(plan_of(models.mlp(), tmp_path), driver, max_batch_size=4) as engine:
        assert engine.spec.batch_sizes == (1, 2, 4)
        launched = []
        for rows in (4, 2):
            before = driver.calls["launch"]
            assert staged(engine, np.zeros((rows, 4), np.float32))[0].shape == (rows, 3)
            launched.append(driver.calls["launch"] - before)
    assert launched == [0, 1]
    assert [line for line in caplog.messages if "batches of 4 rows run without a CUDA graph" in line]


def test_a_capture_is_ended_whatever_is_raised_in_it(driver: FakeDriver) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    gpu = fake_gpu(driver)
    holdings = Holdings(gpu)
    with gpu.use(1) as inside:
        stream = holdings.stream(inside)
        with pytest.raises(KeyboardInterrupt):
            captured(inside, holdings, None, stream, interrupted)
        assert not driver.is_capturing(stream.handle)
        holdings.close(inside)
    gpu.close()


@pytest.mark.parametrize("rows", [0, -1, 9])
def test_rows_that_the_buffers_do_not_have_are_refused(
    models: Models, tmp_path: Path, driver: FakeDriver, rows: int
) -> None:
    with opened(plan_of(models.mlp(), tmp_path), driver, max_batch_size=8) as engine:
        with pytest.raises(ValueError, match=f"{rows} rows were submitted, expected 1 to 8"):
            engine.submit(0, rows)
        engine.submit(0, 8)
        with pytest.raises(ValueError, match="slot 0 has a batch in flight"):
            engine.submit(0, 8)
        engine.wait(0)
        with pytest.raises(ValueError, match="slot 0 has no batch"):
            engine.wait(0)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, helper.tensor_dtype_to_np_dtype(kind)) for kind in (
        TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64,
        TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BFLOAT16,
    )],
    ids=str,
)  # fmt: skip
def test_every_datatype_passes_both_ways(
    models: Models, tmp_path: Path, driver: FakeDriver, kind: int, dtype: np.dtype[Any]
) -> None:
    rows = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    with opened(plan_of(models.unary("Identity", kind), tmp_path), driver, max_batch_size=2) as engine:
        assert engine.spec.inputs[0].dtype == engine.spec.outputs[0].dtype == dtype
        for (answer,) in (engine.run([rows]), staged(engine, rows)):
            assert answer.dtype == dtype
            np.testing.assert_array_equal(answer, rows)


@pytest.mark.parametrize(
    ("traits", "complaint"),
    [
        ({"typed": ["x"]}, r"tensor 'x' is of TensorRT's type FP8"),
        ({"host": ["x"]}, r"tensor 'x' holds a shape, which the library reads on the host"),
        ({"vectorised": ["y"]}, r"tensor 'y' is laid out as Thirty-two wide channel"),
        ({"data_dependent": ["y"]}, r"output 'y' has a size that depends on what the inputs hold"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_tensors_that_cannot_be_served_are_named(
    models: Models, tmp_path: Path, driver: FakeDriver, traits: dict[str, Any], complaint: str
) -> None:
    plan = plan_of(models.mlp(), tmp_path, traits=traits)
    with pytest.raises(UnsupportedModelError, match=complaint), opened(plan, driver):
        pass


def test_sizes_that_each_request_chooses(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    path = models.unary("Relu", TensorProto.FLOAT, ("N", "T", 2), ("N", "T", 2))
    plan = plan_of(path, tmp_path, batches=[(1, 2, 2), (3, 8, 8)])
    with opened(plan, driver) as engine:
        assert engine.spec.inputs[0].dims == engine.spec.outputs[0].dims == (ANY, 2)
        assert engine.spec.max_batch_size == 8
        assert not engine.spec.is_staged
        assert engine.slots == 1
        for shape in ((1, 5, 2), (8, 16, 2), (3, 1, 2), (2, 16, 2)):
            values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            (y,) = engine.run([values])
            np.testing.assert_array_equal(y, np.maximum(values, 0))
        complaint = r"input 'x' is \[2, 17, 2\], and the plan takes \[3, 1, 2\] to \[8, 16, 2\]"
        with pytest.raises(ExecutionError, match=complaint):
            engine.run([np.ones((2, 17, 2), np.float32)])
        with pytest.raises(ValueError, match="no staging buffers"):
            engine.inputs(0)


@pytest.mark.parametrize("dims", [(2, 3), ()], ids=["fixed", "scalar"])
def test_plans_without_a_batch_axis(
    models: Models, tmp_path: Path, driver: FakeDriver, dims: tuple[int, ...]
) -> None:
    plan = plan_of(models.unary("Neg", TensorProto.FLOAT, dims, dims), tmp_path)
    with opened(plan, driver) as engine:
        assert engine.spec.max_batch_size == 0
        assert engine.spec.inputs[0].dims == engine.spec.outputs[0].dims == dims
        with closing(engine.replicate()) as twin:
            for one in (engine, twin):
                np.testing.assert_array_equal(one.run([np.ones(dims, np.float32)])[0], -np.ones(dims))


def test_an_output_that_does_not_count_rows_is_no_batch(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    with opened(plan_of(models.gram(), tmp_path), driver) as engine:
        assert engine.spec.max_batch_size == 0
        assert engine.run([np.ones((5, 3), np.float32)])[0].shape == (5, 5)


def test_arrays_that_do_not_fit_are_an_execution_error(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    with opened(plan_of(models.mlp(), tmp_path), driver, max_batch_size=4) as engine:
        for arrays in (
            [np.zeros((1, 5), np.float32)], [np.zeros((1, 4))], [np.zeros(4, np.float32)], [], [None],
            [np.zeros((5, 4), np.float32)], [np.zeros((0, 4), np.float32)],
        ):  # fmt: skip
            with pytest.raises(ExecutionError, match="expected"):
                engine.run(arrays)
        assert engine.run([np.zeros((4, 4), np.float32)])[0].shape == (4, 3)


def test_arrays_are_executed_beside_a_batch_in_flight(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    with opened(plan_of(models.adding(1), tmp_path), driver, max_batch_size=4) as engine:
        engine.inputs(0)[0][:2] = 5
        engine.submit(0, 2)
        np.testing.assert_array_equal(engine.run([np.ones((3, 3), np.float32)])[0], np.full((3, 3), 2))
        engine.submit(1, 1)
        with pytest.raises(ExecutionError, match="all slots"):
            engine.run([np.ones((3, 3), np.float32)])
        np.testing.assert_array_equal(engine.wait(0)[0], np.full((2, 3), 6))
        engine.wait(1)


def test_instances_share_the_weights_and_nothing_that_changes(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    engine = TensorRtEngine(
        plan_of(models.mlp(), tmp_path), library=library(driver), gpu=fake_gpu(driver), max_batch_size=4
    )
    (expected,) = engine.run([x])
    twin = engine.replicate()
    assert twin.spec == engine.spec
    assert not np.shares_memory(engine.inputs(0)[0], twin.inputs(0)[0])
    engine.inputs(0)[0][:] = x
    engine.submit(0, 4)
    np.testing.assert_array_equal(staged(twin, x[2:])[0], expected[2:])
    np.testing.assert_array_equal(engine.wait(0)[0], expected)
    engine.close()
    np.testing.assert_array_equal(staged(twin, x)[0], expected)
    twin.close()


def test_a_reshaping_engine_follows_a_renewed_one(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    declaration = Declaration((DeclaredTensor("x", FLOAT, (2, 2), (4,)),), (DeclaredTensor("y", None, None),))
    plan = plan_of(models.mlp((4, 3)), tmp_path)
    inner = TensorRtEngine(
        plan, library=library(driver), gpu=fake_gpu(driver), max_batch_size=4, declaration=declaration
    )
    with closing(ReshapingEngine(inner, declaration)) as engine:
        x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
        (expected,) = staged(engine, x)
        expected = expected.copy()
        assert engine.device is not None
        driver.fail("kernel", "CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(EngineSpoilt):
            staged(engine, x)
        engine.device.renew()
        np.testing.assert_array_equal(staged(engine, x)[0], expected)


def test_a_lost_gpu_is_told(models: Models, tmp_path: Path) -> None:
    with FakeDriver() as driver, opened(plan_of(models.mlp(), tmp_path), driver, max_batch_size=4) as engine:
        engine.submit(0, 2)
        driver.lose()
        with pytest.raises(DeviceError):
            engine.wait(0)
        with pytest.raises(DeviceError):
            engine.renew()
        with pytest.raises(EngineError):
            engine.submit(1, 2)
