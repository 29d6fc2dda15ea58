from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import small_networks as networks
from onnx import TensorProto, numpy_helper

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import RECIPES
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_ROWS = {networks.INPUT: networks.scans().calibration}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float8")
    onnx.save(networks.perceptron(), folder / "model.onnx")
    compress(RECIPES["fp8"], folder / "model.onnx", folder / "fp8.onnx", _ROWS)
    return folder / "fp8.onnx"


def test_the_largest_value_seen_becomes_the_largest_of_the_format(made: Path) -> None:
    constants = {each.name: each for each in onnx.load(made).graph.initializer}
    scale = numpy_helper.to_array(constants[f"{networks.INPUT}~scale"])
    assert scale == pytest.approx(networks.scans().calibration.max() / 448)
    weights = {name: each for name, each in constants.items() if name.endswith("_0~fp8")}
    assert len(weights) == 3
    for each in weights.values():
        assert each.data_type == TensorProto.FLOAT8E4M3FN
        values = np.frombuffer(each.raw_data, ml_dtypes.float8_e4m3fn).astype(np.float32)
        assert np.abs(values).max() == 448


def test_scales_are_fixed_symmetric_and_of_one_tensor_each(made: Path) -> None:
    graph = onnx.load(made).graph
    constants = {each.name: each for each in graph.initializer}
    placed = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(placed) == 3 * 2 + 3
    for node in placed:
        assert list(constants[node.input[1]].dims) == []
        assert constants[node.input[2]].data_type == TensorProto.FLOAT8E4M3FN
        assert constants[node.input[2]].raw_data == b"\0"


def test_an_activation_that_several_layers_read_is_quantised_once(tmp_path: Path) -> None:
    onnx.save(networks.transformer(), tmp_path / "model.onnx")
    compress(RECIPES["fp8"], tmp_path / "model.onnx", tmp_path / "fp8.onnx", _ROWS)
    quantised = [
        node.input[0]
        for node in onnx.load(tmp_path / "fp8.onnx").graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert len(quantised) == len(set(quantised))
    assert len(quantised) < 2 * 19


def test_the_engine_answers_as_the_graph_says(made: Path) -> None:
    """Which takes an engine that fuses nothing: what it fuses for INT8 answers otherwise for FP8."""
    scans = networks.scans().held_out[:8]
    engine = OnnxRuntimeEngine(made, max_batch_size=8, fuses=False)
    (found,) = engine.run([scans])
    engine.close()
    np.testing.assert_allclose(found, networks.answers(made, scans), atol=1e-6)
    onnx_found = onnx.reference.ReferenceEvaluator(str(made)).run(None, {networks.INPUT: scans})[0]
    np.testing.assert_allclose(found, onnx_found, atol=1e-4)
