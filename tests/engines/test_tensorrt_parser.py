"""Recipes for TensorRT in the form that TensorRT takes: FP32, FP16, INT8 and FP8 of every kind of graph."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
import small_networks as networks
from onnx import TensorProto, numpy_helper

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import AUTO, TENSORRT, chosen

_MAKERS = {
    "perceptron": networks.perceptron,
    "convolutional": networks.convolutional,
    "transformer": networks.transformer,
}
_RECIPES = (
    "fp32",
    *AUTO[TENSORRT],
    "int8-tensorrt-entropy",
    "prune-2of4+int8-tensorrt",
    "prune-structured+fp16",
    "clip+fp8",
)
_KEPT = {"perceptron": "gemm_2", "convolutional": "conv_4", "transformer": "matmul_22"}


@pytest.fixture(scope="module", params=_MAKERS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensorrt") / f"{request.param}.onnx"
    onnx.save(_MAKERS[request.param](), path)
    return path


@pytest.fixture(params=[*_RECIPES, "mixed int8-tensorrt", "mixed fp8", "mixed fp16"])
def model(request: pytest.FixtureRequest, source: Path, tmp_path: Path) -> Path:
    if request.param == "fp32":
        return source
    name = request.param.removeprefix("mixed ")
    keep = [_KEPT[source.stem]] if name != request.param else []
    (how,) = chosen([name], [TENSORRT])
    made = tmp_path / f"{request.param}.onnx"
    compress(how, source, made, {networks.INPUT: networks.scans().calibration}, keep=keep)
    return made


def test_the_graph_is_of_the_kind_that_tensorrt_takes(model: Path) -> None:
    loaded = onnx.load(model)
    graph = loaded.graph
    assert [opset.domain for opset in loaded.opset_import] == [""]
    assert {node.domain for node in graph.node} == {""}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gemm":
            assert len(constants[node.input[2]].dims) == 1
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.data_type in (TensorProto.INT8, TensorProto.FLOAT8E4M3FN)
            assert not numpy_helper.to_array(zero).astype(float).any()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the package tensorrt_rtx is not installed: in a clone of Headrace: pip install '.[rtx]'",
)
@pytest.mark.frameworks
def test_tensorrt_parses_the_graph_and_builds_an_engine(model: Path) -> None:
    import tensorrt_rtx as tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(model))
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    assert network.get_input(0).name == networks.INPUT
    assert tuple(network.get_input(0).shape) == (-1, 64)
    assert network.get_output(0).dtype == tensorrt.DataType.FLOAT
    profile = builder.create_optimization_profile()
    profile.set_shape(networks.INPUT, (1, 64), (32, 64), (64, 64))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
