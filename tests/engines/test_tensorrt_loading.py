"""Plans that are loaded as they were declared and described, kept, and refused, on a fake GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver, fake_gpu
from fake_tensorrt import FakeLibrary, library, opened, plan_of
from onnx import TensorProto
from onnx_models import Models

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import (
    DeclarationError,
    EngineSpoilt,
    MemoryExhausted,
    ModelFileError,
    UnsupportedModelError,
)
from headrace_engines.plans.nvidia import RTX, TENSORRT
from headrace_engines.runtime.cuda import context
from headrace_engines.runtime.tensorrt.engine import TensorRtEngine
from headrace_engines.runtime.tensorrt.plan_file import Expected
from headrace_engines.spec import ANY, TensorSpec

FLOAT = np.dtype(np.float32)


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver() as driver:
        yield driver


def staged(engine: Any, *arrays: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    rows = len(arrays[0])
    for buffer, array in zip(engine.inputs(0), arrays, strict=True):
        buffer[:rows] = array
    engine.submit(0, rows)
    return engine.wait(0)


def test_what_was_declared_is_what_is_served(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    plan = plan_of(models.embedding(), tmp_path)
    inputs = (DeclaredTensor("x", FLOAT, (3,)), DeclaredTensor("word", np.dtype(np.int64), ()))
    one = Declaration(inputs, (DeclaredTensor("label", None, None),), max_batch_size=4)
    with opened(plan, driver, max_batch_size=4, declaration=one) as engine:
        assert [tensor.name for tensor in engine.spec.outputs] == ["label"]
        assert [tensor.name for tensor in engine.found.outputs] == ["score", "label"]
        (label,) = staged(engine, np.zeros((3, 3), np.float32), np.array([0, 3, 6]))
        np.testing.assert_array_equal(label, [2, 2, 2])
    for declaration, complaint in (
        (Declaration(max_batch_size=65), "the configuration says 65, and the plan was built for 64 at most"),
        (Declaration(outputs=(DeclaredTensor("lable", None, None),)), "did you mean 'label'"),
    ):
        rows = declaration.max_batch_size or 64
        with (
            pytest.raises(DeclarationError, match=complaint),
            opened(plan, driver, max_batch_size=rows, declaration=declaration),
        ):
            pass


def test_a_declaration_may_fix_what_the_plan_leaves_open(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    path = models.unary("Relu", TensorProto.FLOAT, ("N", "T", 2), ("N", "T", 2))
    plan = plan_of(path, tmp_path, batches=[(1, 4, 4)])
    fixed = Declaration((DeclaredTensor("x", FLOAT, (5, 2)),))
    with opened(plan, driver, declaration=fixed) as engine:
        assert engine.spec.outputs[0].dims == (5, 2)
        assert staged(engine, np.ones((3, 5, 2), np.float32))[0].shape == (3, 5, 2)
    too_large = Declaration((DeclaredTensor("x", FLOAT, (17, 2)),))
    with pytest.raises(DeclarationError, match="the plan takes"), opened(plan, driver, declaration=too_large):
        pass


def test_the_manifest_tells_the_tensors(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    plan = plan_of(models.mlp(), tmp_path)
    sha256, size = _sum(plan)
    x, y = TensorSpec("x", FLOAT, (4,)), TensorSpec("y", FLOAT, (ANY,))
    with opened(plan, driver, expected=Expected(sha256, size, (x,), (y,))):
        pass
    other = Expected(sha256, size, (x,), (TensorSpec("z", FLOAT, (3,)),))
    complaint = r"its outputs are y float32 \[3\], and manifest.json says z"
    with pytest.raises(ModelFileError, match=complaint), opened(plan, driver, expected=other):
        pass


def _sum(path: Path) -> tuple[str, int]:
    import hashlib

    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), len(content)


@pytest.mark.parametrize(
    ("total_bytes", "complaint"),
    [
        (20_000, r"\d+ bytes of memory of GPU 0 were asked for: \d+ of 20000 are free"),
        (100, "do not fit on the GPU, of which 100 bytes were free"),
    ],
)
def test_memory_that_does_not_suffice_is_told_with_the_numbers(
    models: Models, tmp_path: Path, total_bytes: int, complaint: str
) -> None:
    plan = plan_of(models.mlp((512, 3)), tmp_path)
    with (
        FakeDriver(total_bytes=total_bytes) as driver,
        pytest.raises(MemoryExhausted, match=complaint),
        opened(plan, driver),
    ):
        pass


def test_a_plan_of_another_version_is_refused(models: Models, tmp_path: Path, driver: FakeDriver) -> None:
    plan = plan_of(models.mlp(), tmp_path, by=FakeLibrary(TENSORRT, "10.0.0"))
    plan = plan.rename(tmp_path / "model.plan")
    with pytest.raises(UnsupportedModelError, match="Version tag does not match"), opened(plan, driver):
        pass
    plan.write_bytes(b"something")
    with pytest.raises(ModelFileError, match="Magic tag"), opened(plan, driver):
        pass


def test_what_was_compiled_is_kept_for_the_next_start(
    models: Models, tmp_path: Path, driver: FakeDriver
) -> None:
    by = library(driver, RTX)
    plan = plan_of(models.mlp(), tmp_path, by=by, architecture="any")
    caches = tmp_path / "caches"
    compiled = by.module().compiled
    with opened(plan, driver, by=by, max_batch_size=4, caches=caches) as engine:
        assert len(compiled) == len(engine.spec.batch_sizes)
    compiled.clear()
    with opened(plan, driver, by=by, max_batch_size=4, caches=caches):
        assert compiled == []
    (kept,) = caches.iterdir()
    assert "fake-gpu-sm90-13000-rtx" in kept.name
    kept.write_bytes(kept.read_bytes()[:-1])
    with opened(plan, driver, by=by, max_batch_size=4, caches=caches):
        assert compiled != []


def test_a_cache_that_the_library_does_not_take_is_told(
    models: Models, tmp_path: Path, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    by = library(driver, RTX, takes_caches=False)
    plan = plan_of(models.mlp(), tmp_path, by=by, architecture="any")
    with opened(plan, driver, by=by, max_batch_size=4, caches=tmp_path / "caches"):
        pass
    assert [line for line in caplog.messages if "does not take it" in line] != []
    assert not (tmp_path / "caches").exists()


def test_a_plan_that_is_being_read_in_is_waited_for_by_a_reset(
    models: Models, tmp_path: Path, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "_PATIENCE_SECONDS", 0.0)
    plan = plan_of(models.adding(1), tmp_path)
    gpu = fake_gpu(driver)
    by = library(driver)
    reading, read = threading.Event(), threading.Event()
    runtime_of = by.module().Runtime

    def slow_runtime(logger: Any) -> Any:
        reading.set()
        assert read.wait(60)
        return runtime_of(logger)

    class Waited(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is being loaded" in record.getMessage():
                read.set()

    monkeypatch.setattr(by.module(), "Runtime", slow_runtime)
    monkeypatch.setattr(context.logger, "handlers", [Waited()])
    engines: list[TensorRtEngine] = []
    assert gpu.share()
    loading = threading.Thread(
        target=lambda: engines.append(TensorRtEngine(plan, library=by, gpu=gpu, max_batch_size=4))
    )
    loading.start()
    assert reading.wait(60)
    driver.fail("stream", "CUDA_ERROR_ILLEGAL_ADDRESS")
    with pytest.raises(EngineSpoilt), gpu.use(1) as inside:
        inside.stream()
    assert gpu.renew(1) == 2
    loading.join()
    (engine,) = engines
    np.testing.assert_array_equal(staged(engine, np.ones((3, 3), np.float32))[0], 2)
    engine.close()
    gpu.close()
