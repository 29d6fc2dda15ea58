"""The engine over ONNX Runtime's CUDA provider, on a fake GPU that shows what it forgets."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_cuda import FakeDriver, fake_gpu
from fake_onnxruntime import CPU, ILLEGAL_ADDRESS, OUT_OF_MEMORY, Provider, failure, fake_provider
from fake_streams import EAGER, LATE
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import Models

from headrace_engines import independence
from headrace_engines.errors import (
    DeviceError,
    EngineSpoilt,
    ExecutionError,
    MemoryExhausted,
    ModelFileError,
    UnsupportedModelError,
)
from headrace_engines.runtime import onnx_provider
from headrace_engines.runtime.cuda.pools import Pools
from headrace_engines.runtime.onnx_session import OnnxSession
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine

Arrays = tuple[np.ndarray[Any, Any], ...]


class Bench:
    """An engine on a fake GPU, and what it runs on."""

    def __init__(self, driver: FakeDriver, provider: Provider, engine: OnnxRuntimeCudaEngine) -> None:
        self.driver = driver
        self.provider = provider
        self.engine = engine

    def submit(self, slot: int, *arrays: np.ndarray[Any, Any]) -> None:
        """Fill a slot, as whoever owns the engine does."""
        for buffer, array in zip(self.engine.inputs(slot), arrays, strict=True):
            self.driver.inspect(buffer, writing=True)
            buffer[: len(array)] = array
        self.engine.submit(slot, len(arrays[0]))

    def wait(self, slot: int) -> Arrays:
        """Take the answers of a slot."""
        outputs = self.engine.wait(slot)
        for output in outputs:
            self.driver.inspect(output)
        return outputs


@contextlib.contextmanager
def opened(
    path: Path, max_batch_size: int = 8, order: int | str = LATE, pools: Pools | None = None
) -> Iterator[Bench]:
    with FakeDriver(order) as driver, fake_provider(driver) as provider:
        gpu = fake_gpu(driver, pools)
        engine = OnnxRuntimeCudaEngine(path, gpu=gpu, max_batch_size=max_batch_size)
        with contextlib.closing(engine):
            yield Bench(driver, provider, engine)


@functools.cache
def on_the_cpu(path: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(path)


def expected(path: Path, *arrays: np.ndarray[Any, Any]) -> Arrays:
    return on_the_cpu(path).run(arrays)


def rows_of(count: int, width: int = 4, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_it_is_what_the_file_is(models):
    path = models.mlp((4, 8, 3))
    with opened(path) as bench, contextlib.closing(OnnxRuntimeEngine(path, max_batch_size=8)) as other:
        engine = bench.engine
        assert engine.found == other.found
        assert (engine.spec.inputs, engine.spec.outputs) == (other.spec.inputs, other.spec.outputs)
        assert (engine.platform, engine.slots, engine.computes_on_caller) == ("onnxruntime_onnx", 2, False)
        assert engine.device is engine
        assert engine.device.gpu == 0


def test_the_session_computes_in_the_engines_stream_and_waits_for_nothing(models):
    with opened(models.mlp()) as bench:
        (options,) = bench.provider.opened
        assert int(options["user_compute_stream"]) == bench.engine._staging.computing.handle
        assert options == {
            "device_id": "0",
            "user_compute_stream": options["user_compute_stream"],
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "do_copy_in_default_stream": "1",
            "use_tf32": "0",
        }


@pytest.mark.parametrize("order", [LATE, EAGER, 7])
def test_every_number_of_rows_answers_as_on_the_cpu(models, order):
    path = models.mlp((4, 8, 3))
    x = rows_of(8)
    (y,) = expected(path, x)
    with opened(path, order=order) as bench:
        for rows in range(1, 9):
            bench.submit(0, x[:rows])
            np.testing.assert_array_equal(bench.wait(0)[0], y[:rows])
            np.testing.assert_array_equal(bench.engine.run([x[:rows]])[0], y[:rows])


@pytest.mark.parametrize(
    "kind",
    [
        TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT64, TensorProto.FLOAT16, TensorProto.DOUBLE,
        TensorProto.BFLOAT16,
    ],
)  # fmt: skip
def test_datatypes_pass_both_ways(models, kind):
    rows = np.array([[0, 1, 1], [1, 0, 1]]).astype(helper.tensor_dtype_to_np_dtype(kind))
    with opened(models.unary("Identity", kind)) as bench:
        bench.submit(1, rows)
        (answer,) = bench.wait(1)
        assert answer.dtype == rows.dtype
        np.testing.assert_array_equal(answer, rows)


def test_several_inputs_and_outputs(models):
    path = models.embedding()
    arrays = (np.ones((3, 3), np.float32), np.array([0, 3, 6]))
    with opened(path) as bench:
        bench.submit(0, *arrays)
        for found, wanted in zip(bench.wait(0), expected(path, *arrays), strict=True):
            np.testing.assert_array_equal(found, wanted)


@settings(max_examples=40, deadline=None)
@given(
    order=st.one_of(st.sampled_from([LATE, EAGER]), st.integers(0, 1000)),
    batches=st.lists(st.integers(1, 8), min_size=1, max_size=6),
)
def test_batches_in_flight_keep_their_rows(models, order, batches):
    path = mlp(models)
    with opened(path, order=order) as bench:
        flying: list[tuple[int, np.ndarray[Any, Any]]] = []
        for number, rows in enumerate(batches):
            if len(flying) == 2:
                land(bench, path, *flying.pop(0))
            x = rows_of(rows, seed=number)
            bench.submit(number % 2, x)
            flying.append((number % 2, x))
        for slot, x in flying:
            land(bench, path, slot, x)


@functools.cache
def mlp(models: Models) -> Path:
    return models.mlp((4, 8, 3))


def land(bench: Bench, path: Path, slot: int, x: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(bench.wait(slot)[0], expected(path, x)[0])


def test_nothing_is_allocated_for_a_batch(models):
    with opened(models.mlp()) as bench:
        before = dict(bench.driver.calls)
        for _ in range(3):
            bench.submit(0, rows_of(5))
            bench.wait(0)
        made = {call for call in bench.driver.calls if bench.driver.calls[call] != before.get(call, 0)}
        assert not made & {"allocate", "allocate_pinned", "stream", "event"}


@pytest.mark.parametrize("dims", [("N", "T", 2), (2, 3)], ids=["open sizes", "no batch axis"])
def test_models_that_are_not_staged_get_arrays(models, dims):
    shape = tuple(3 if isinstance(dim, str) else dim for dim in dims)
    with opened(models.unary("Neg", TensorProto.FLOAT, dims, dims)) as bench:
        assert not bench.engine.spec.is_staged
        assert "user_compute_stream" not in bench.provider.opened[0]
        np.testing.assert_array_equal(
            bench.engine.run([np.ones(shape, np.float32)])[0], -np.ones(shape, np.float32)
        )


def test_arrays_are_executed_as_a_step_of_a_load(models, monkeypatch):
    """The first execution at a shape seeks algorithms, for longer than a reset waits for others."""
    run, inside = OnnxSession.run, []

    def noted(session, arrays):
        gpu = bench.engine._gpu
        inside.append((gpu._loading, gpu._executing))
        return run(session, arrays)

    with opened(models.unary("Neg", TensorProto.FLOAT, ("N", "T", 2), ("N", "T", 2))) as bench:
        monkeypatch.setattr(OnnxSession, "run", noted)
        bench.engine.run([np.ones((1, 3, 2), np.float32)])
    assert inside == [(1, 0)]


def test_rows_whose_answers_differ_in_size_get_arrays_too(models):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with opened(models.compressed(TensorProto.FLOAT)) as bench:
        assert not bench.engine.spec.is_staged
        np.testing.assert_array_equal(bench.engine.run([x])[0], x[:, ::2])


def test_rows_are_independent_where_they_are_on_the_cpu(models):
    with opened(models.mlp()) as bench:
        assert independence.check(bench.engine).independent
    with opened(models.normalised_over_batch()) as bench:
        assert not independence.check(bench.engine).independent


def test_operators_that_the_gpu_lacks_are_named_once(models, caplog):
    path = models.mlp()
    with FakeDriver() as driver, fake_provider(driver) as provider:
        provider.on_cpu = (("NonZero", "mask"), ("Unique", "kinds"))
        with caplog.at_level(logging.WARNING):
            engine = OnnxRuntimeCudaEngine(path, gpu=fake_gpu(driver))
            engine.replicate().close()
            engine.close()
    told = [record.getMessage() for record in caplog.records if "CPU" in record.getMessage()]
    assert told == [
        f"{path.name}: ONNX Runtime executes 2 operators on the CPU, and copies what they take and give, so "
        "that each batch is waited for: NonZero 'mask', Unique 'kinds'"
    ]


@pytest.mark.parametrize("order", [LATE, EAGER, 7])
def test_operators_on_the_cpu_see_what_was_copied_in(models, order):
    path = models.mlp((4, 8, 3))
    x = rows_of(8)
    (y,) = expected(path, x)
    with FakeDriver(order) as driver, fake_provider(driver) as provider:
        provider.on_cpu = (("NonZero", "mask"),)
        engine = OnnxRuntimeCudaEngine(path, gpu=fake_gpu(driver), max_batch_size=8)
        with contextlib.closing(engine):
            bench = Bench(driver, provider, engine)
            bench.submit(0, x[:5])
            bench.submit(1, x[5:])
            np.testing.assert_array_equal(bench.wait(0)[0], y[:5])
            np.testing.assert_array_equal(bench.wait(1)[0], y[5:])


def test_a_batch_that_the_library_refuses_leaves_the_engine_whole(models):
    path = models.mlp((4, 8, 3))
    with opened(path) as bench:
        bench.provider.failures.append(failure("[ONNXRuntimeError] : 1 : FAIL : no such thing"))
        with pytest.raises(ExecutionError, match="ONNX Runtime: no such thing"):
            bench.submit(0, rows_of(2))
        bench.provider.failures.append(failure(OUT_OF_MEMORY))
        with pytest.raises(MemoryExhausted, match="4096 bytes were asked for"):
            bench.submit(0, rows_of(2))
        bench.submit(0, rows_of(2))
        np.testing.assert_array_equal(bench.wait(0)[0], expected(path, rows_of(2))[0])


def test_a_kernel_that_spoils_the_context_spoils_the_engine_until_it_is_renewed(models):
    path = models.mlp((4, 8, 3))
    with opened(path) as bench:
        bench.driver.fail("kernel", "CUDA_ERROR_ILLEGAL_ADDRESS")
        bench.submit(0, rows_of(2))
        with pytest.raises(EngineSpoilt, match="ILLEGAL_ADDRESS") as spoilt:
            bench.wait(0)
        assert spoilt.value.was_executed
        with pytest.raises(EngineSpoilt) as later:
            bench.submit(1, rows_of(2))
        assert not later.value.was_executed
        bench.engine.renew()
        assert bench.provider.ended == [], "it would free others' memory"
        bench.submit(1, rows_of(3))
        np.testing.assert_array_equal(bench.wait(1)[0], expected(path, rows_of(3))[0])
        assert len(bench.provider.opened) == 2


def test_what_the_library_met_is_asked_of_the_gpu(models):
    with opened(models.mlp()) as bench:
        bench.driver.fail("record", "CUDA_ERROR_ILLEGAL_ADDRESS", after=3)
        bench.provider.failures.append(failure(ILLEGAL_ADDRESS))
        with pytest.raises(EngineSpoilt, match="ILLEGAL_ADDRESS"):
            bench.submit(0, rows_of(2))
        bench.engine.renew()
        bench.provider.failures.append(failure(ILLEGAL_ADDRESS))
        with pytest.raises(ExecutionError, match=r"an illegal memory access was encountered$"):
            bench.submit(0, rows_of(2))


def test_arrays_that_spoil_the_context(models):
    with opened(models.unary("Neg", TensorProto.FLOAT, (2, 3), (2, 3))) as bench:
        bench.provider.failures.append(failure(ILLEGAL_ADDRESS))
        bench.driver.fail("free_bytes", "CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(EngineSpoilt, match="ILLEGAL_ADDRESS"):
            bench.engine.run([np.ones((2, 3), np.float32)])
        bench.engine.renew()
        assert bench.engine.run([np.ones((2, 3), np.float32)])[0].tolist() == [[-1] * 3] * 2


def test_a_library_that_does_not_begin_anew_is_a_lost_device(models):
    with opened(models.mlp()) as bench:
        bench.driver.fail("kernel", "CUDA_ERROR_LAUNCH_FAILED")
        bench.submit(0, rows_of(2))
        with pytest.raises(EngineSpoilt):
            bench.wait(0)
        bench.provider.cannot_open = failure("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 709: no context")
        with pytest.raises(DeviceError, match=r"does not begin anew on GPU 0: .*709"):
            bench.engine.renew()


def test_a_lost_gpu_is_told(models):
    with opened(models.mlp()) as bench:
        bench.driver.lose()
        with pytest.raises(DeviceError, match="is lost"):
            bench.submit(0, rows_of(2))
        with pytest.raises(DeviceError):
            bench.engine.renew()


def test_instances_have_sessions_of_their_own_and_go_on_without_each_other(models):
    path = models.mlp((4, 8, 3))
    with opened(path) as bench:
        twin = bench.engine.replicate()
        assert twin.spec == bench.engine.spec
        first, second = (options["user_compute_stream"] for options in bench.provider.opened)
        assert first != second
        other = Bench(bench.driver, bench.provider, twin)
        bench.submit(0, rows_of(3))
        other.submit(0, rows_of(5, seed=1))
        np.testing.assert_array_equal(other.wait(0)[0], expected(path, rows_of(5, seed=1))[0])
        twin.close()
        assert bench.provider.ended == [second]
        np.testing.assert_array_equal(bench.wait(0)[0], expected(path, rows_of(3))[0])


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            failure(OUT_OF_MEMORY),
            MemoryExhausted,
            r"4096 bytes were asked for; \d+ of 1073741824 bytes of GPU 0",
        ),
        (RuntimeError("libcudnn.so.9: cannot open"), UnsupportedModelError, "on GPU 0: .*libcudnn.so.9"),
    ],
)
def test_what_keeps_a_session_from_the_gpu_is_told(models, error, kind, text):
    with FakeDriver() as driver, fake_provider(driver) as provider:
        provider.cannot_open = error
        with pytest.raises(kind, match=text):
            OnnxRuntimeCudaEngine(models.mlp(), gpu=fake_gpu(driver))


def test_a_provider_that_finds_no_libraries_is_not_taken_for_one(models):
    with FakeDriver() as driver, fake_provider(driver) as provider:
        provider.has_libraries = False
        with pytest.raises(UnsupportedModelError, match="CUDA provider cannot be started"):
            OnnxRuntimeCudaEngine(models.mlp(), gpu=fake_gpu(driver))


def test_buffers_beyond_the_pools_bound_are_refused_with_the_numbers(models):
    with FakeDriver() as driver, fake_provider(driver):
        gpu = fake_gpu(driver, Pools(device_limit_bytes={0: 64}))
        with pytest.raises(MemoryExhausted, match="--cuda-memory-pool-byte-size allows 64"):
            OnnxRuntimeCudaEngine(models.mlp(), gpu=gpu)


def test_a_damaged_file_is_named_and_the_gpu_given_back(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the sort")
    with FakeDriver() as driver, pytest.raises(ModelFileError, match=r"^model.onnx: "):
        OnnxRuntimeCudaEngine(path, gpu=fake_gpu(driver))


def test_a_model_made_for_tensorrt_is_served(models):
    pytest.importorskip("onnx")
    path = models.save(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        weights={"scale": np.array(0.5, np.float32), "zero": np.array(0, np.int8)},
    )
    x = np.array([[0.3, 1.2, -40]], np.float32)
    with opened(path) as bench:
        bench.submit(0, x)
        np.testing.assert_array_equal(bench.wait(0)[0], [[0.5, 1.0, -40]])


def test_this_onnx_runtime_has_the_provider_or_not():
    assert onnx_provider.available() is (onnx_provider.PROVIDER in onnxruntime.get_available_providers())


def test_every_name_that_is_used_of_the_library_is_there(models):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(models.mlp(), options, providers=[CPU], enable_fallback=0)
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {CPU}
    assert all(node.op_type and isinstance(node.name, str) for part in parts for node in part.get_nodes())
    onnxruntime.preload_dlls()
