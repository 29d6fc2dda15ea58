"""Every recipe on every kind of graph: what it does to accuracy, size and the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks as networks

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import CPU, TENSORRT, chosen
from headrace_engines.compress.sensitivity import errors
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.independence import check
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_MAKERS = {
    "perceptron": networks.perceptron,
    "convolutional": networks.convolutional,
    "transformer": networks.transformer,
}

_MOST: dict[str, tuple[float, float]] = {
    "int8-cpu": (0.01, 0.6),
    "int8-cpu-percentile": (0.01, 0.6),
    "dynamic": (0.01, 0.5),
    "int8-tensorrt": (0.01, 0.5),
    "int8-tensorrt-entropy": (0.01, 0.5),
    "fp8": (0.01, 0.5),
    "fp16": (0.0, 0.6),
    "prune-magnitude": (0.4, 1.01),
    "prune-structured": (0.01, 0.7),
    "clip+int8-cpu": (0.01, 0.6),
    "prune-structured+int8-cpu": (0.01, 0.5),
    "prune-structured+fp16": (0.01, 0.4),
    "prune-2of4+int8-tensorrt": (0.05, 0.5),
}
"""How much of the accuracy a recipe may cost, and what share of the bytes it may leave."""


@pytest.fixture(scope="module", params=_MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    onnx.save(_MAKERS[request.param](), path)
    return path


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    return {networks.INPUT: networks.scans().calibration}


def _make(name: str, model: Path, rows: dict[str, np.ndarray], into: Path) -> Path:
    (how,) = chosen([name], (CPU, TENSORRT))
    compress(how, model, into, rows)
    return into


@pytest.mark.parametrize("name", _MOST)
def test_what_is_made_is_smaller_nearly_as_good_and_always_the_same(
    name: str, model: Path, rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    most_lost, largest_share = _MOST[name]
    made = _make(name, model, rows, tmp_path / "made.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert networks.accuracy(made) >= networks.accuracy(model) - most_lost
    assert made.stat().st_size <= model.stat().st_size * largest_share
    again = _make(name, model, rows, tmp_path / "again.onnx")
    assert made.read_bytes() == again.read_bytes()
    before, after = onnx.load(model).graph, onnx.load(made).graph
    assert [tensor.name for tensor in after.input] == [tensor.name for tensor in before.input]
    assert [tensor.type.tensor_type.elem_type for tensor in after.output] == [
        tensor.type.tensor_type.elem_type for tensor in before.output
    ]
    assert after.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.fixture(scope="module", params=["int8-cpu", "int8-tensorrt", "fp8", "prune-structured"])
def for_batches(
    request: pytest.FixtureRequest,
    model: Path,
    rows: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OnnxRuntimeEngine]:
    path = _make(request.param, model, rows, tmp_path_factory.mktemp("made") / "model.onnx")
    engine = OnnxRuntimeEngine(path, max_batch_size=8, fuses=request.param != "fp8")
    yield engine
    engine.close()


def test_rows_of_a_batch_do_not_change_each_other(for_batches: OnnxRuntimeEngine) -> None:
    assert check(for_batches).independent


def test_dynamic_quantisation_is_not_for_batches(
    model: Path, rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    made = _make("dynamic", model, rows, tmp_path / "dynamic.onnx")
    engine = OnnxRuntimeEngine(made, max_batch_size=8)
    assert not check(engine).independent
    engine.close()


@pytest.mark.parametrize("name", ["int8-cpu", "dynamic", "int8-tensorrt", "fp8", "prune-structured"])
def test_a_logistic_regression_is_left_alone_and_the_reason_told(
    name: str, rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    onnx.save(networks.logistic(), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=rf"^{name}: nothing to (quantise|prune): .*") as told:
        _make(name, tmp_path / "model.onnx", rows, tmp_path / "made.onnx")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize("name", ["int8-cpu", "int8-tensorrt", "fp8", "fp16", "dynamic"])
def test_nodes_to_keep_stay_in_fp32(name: str, rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(networks.perceptron(), model)
    (how,) = chosen([name], (CPU, TENSORRT))
    compress(how, model, tmp_path / "made.onnx", rows, keep=["gemm_2"])
    weights = {
        weight.name: weight.data_type for weight in onnx.load(tmp_path / "made.onnx").graph.initializer
    }
    assert weights["gemm_2_0"] == onnx.TensorProto.FLOAT
    assert "gemm_0_0" not in weights or weights["gemm_0_0"] == onnx.TensorProto.FLOAT16


def test_a_model_that_takes_one_row_at_a_time_is_calibrated_so(
    rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    fixed = networks.perceptron()
    for tensor in (*fixed.graph.input, *fixed.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, tmp_path / "fixed.onnx")
    onnx.save(networks.perceptron(), tmp_path / "open.onnx")
    for name in ("int8-cpu", "prune-structured"):
        made = [
            _make(name, tmp_path / f"{kind}.onnx", rows, tmp_path / f"{name}-{kind}")
            for kind in ("fixed", "open")
        ]
        scans = networks.scans().held_out[:1]
        np.testing.assert_allclose(*(networks.answers(path, scans) for path in made), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_architecture_gets_smaller_and_answers_alike(tmp_path: Path) -> None:
    model = tmp_path / "resnet50.onnx"
    onnx.save(networks.resnet50(), model)
    (name,) = (tensor.name for tensor in onnx.load(model).graph.input)
    pictures = np.random.default_rng(0).normal(size=(8, 3, 224, 224)).astype(np.float32)
    exact = networks.answers(model, pictures[4:])
    for recipe, most_bytes, most_error in (
        ("int8-cpu", 0.3, 0.35),
        ("prune-structured+int8-cpu", 0.2, 0.5),
    ):
        made = _make(recipe, model, {name: pictures[:4]}, tmp_path / f"{recipe}.onnx")
        assert made.stat().st_size < most_bytes * model.stat().st_size
        found = networks.answers(made, pictures[4:])
        assert np.linalg.norm(found - exact) < most_error * np.linalg.norm(exact)
    judged = errors(model, tmp_path / "int8-cpu.onnx", {name: pictures[4:]})
    assert len(judged) == 54
    assert all(error.sqnr_db > 20 for error in judged)
