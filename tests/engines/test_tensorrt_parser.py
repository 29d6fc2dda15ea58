"""Both of a model's placements in the form that TensorRT takes: FP32, and INT8 as it wants it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from headrace_engines import digits
from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import RECIPES

from .conftest import BuiltDigits


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(
    request: pytest.FixtureRequest, built_digits: BuiltDigits, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    fp32 = built_digits.result.folder / "model.onnx"
    if request.param == "fp32":
        return fp32
    int8 = tmp_path_factory.mktemp("tensorrt") / "model.int8-tensorrt.onnx"
    compress(RECIPES["int8-tensorrt"], fp32, int8, {digits.INPUT: digits.splits().calibration.images})
    return int8


def test_the_graph_is_of_the_kind_that_tensorrt_takes(model: Path) -> None:
    loaded = onnx.load(model)
    graph = loaded.graph
    domains = [opset.domain or "ai.onnx" for opset in loaded.opset_import]
    assert len(domains) == len(set(domains))
    assert {node.domain or "ai.onnx" for node in graph.node} == {"ai.onnx"}
    for tensor in (*graph.input, *graph.output):
        batch, *rest = tensor.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert all(size.dim_value > 0 for size in rest)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    produced = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Gemm":
            bias = constants[node.input[2]]
            assert bias.ndim == 1
            assert bias.dtype == np.float32
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
    if model.name != "model.onnx":
        gemms = [node for node in graph.node if node.op_type == "Gemm"]
        sources = {produced[name].op_type for node in gemms for name in node.input[:2]}
        assert sources == {"DequantizeLinear"}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the package tensorrt_rtx is not installed: pip install tensorrt_rtx",
)
def test_tensorrt_parses_the_graph_and_builds_an_engine(model: Path) -> None:
    import tensorrt_rtx as tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(model))
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    assert network.get_input(0).name == digits.INPUT
    assert tuple(network.get_input(0).shape) == (-1, 64)
    profile = builder.create_optimization_profile()
    profile.set_shape(digits.INPUT, (1, 64), (32, 64), (64, 64))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
