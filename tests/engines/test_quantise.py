from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks as networks
from onnx import TensorProto, numpy_helper

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import RECIPES

_ROWS = {networks.INPUT: networks.scans().calibration}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    onnx.save(networks.perceptron(), folder / "perceptron.onnx")
    onnx.save(networks.convolutional(), folder / "convolutional.onnx")
    onnx.save(networks.transformer(), folder / "transformer.onnx")
    return folder


def _quantised(folder: Path, model: str, recipe: str = "int8-cpu") -> onnx.ModelProto:
    made = folder / f"{model}.{recipe}.onnx"
    if not made.exists():
        compress(RECIPES[recipe], folder / f"{model}.onnx", made, _ROWS)
    return onnx.load(made)


def test_other_rows_give_other_scales(folder: Path, tmp_path: Path) -> None:
    before = _quantised(folder, "perceptron").SerializeToString()
    rows = {networks.INPUT: networks.scans().calibration / 2}
    compress(RECIPES["int8-cpu"], folder / "perceptron.onnx", tmp_path / "other.onnx", rows)
    assert (tmp_path / "other.onnx").read_bytes() != before


@pytest.mark.parametrize(
    "recipe", ["int8-cpu", "int8-cpu-percentile", "int8-tensorrt-entropy", "dynamic", "fp8", "fp16"]
)
def test_nothing_is_said_and_the_source_is_untouched(
    recipe: str,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = folder / "transformer.onnx"
    before = model.read_bytes()
    compress(RECIPES[recipe], model, tmp_path / "made.onnx", _ROWS)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert model.read_bytes() == before


def test_weights_are_int8_with_a_scale_for_each_channel(folder: Path) -> None:
    constants = {
        weight.name: numpy_helper.to_array(weight)
        for weight in _quantised(folder, "perceptron").graph.initializer
    }
    weights = {name: array for name, array in constants.items() if array.ndim == 2}
    assert sorted(array.shape for array in weights.values()) == [(64, 128), (96, 10), (128, 96)]
    for name, array in weights.items():
        assert array.dtype == np.int8
        assert constants[name.replace("_quantized", "_scale")].shape == (array.shape[1],)
        assert not constants[name.replace("_quantized", "_zero_point")].any()


@pytest.mark.parametrize("model", ["perceptron", "convolutional", "transformer"])
def test_activations_are_unsigned_with_fixed_scales(model: str, folder: Path) -> None:
    graph = _quantised(folder, model).graph
    constants = {weight.name: weight for weight in graph.initializer}
    quantising = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantising) >= 3
    assert {constants[node.input[2]].data_type for node in quantising} == {TensorProto.UINT8}
    assert all(node.input[1] in constants for node in quantising)
    assert "DynamicQuantizeLinear" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("model", ["perceptron", "convolutional", "transformer"])
def test_matrices_give_fp32_and_probabilities_are_not_rounded(model: str, folder: Path) -> None:
    graph = _quantised(folder, model).graph
    quantised = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.op_type == "Gemm":
            assert not quantised & set(node.output)
    (last,) = (node for node in graph.node if networks.OUTPUT in node.output)
    assert last.op_type == "Softmax"


def test_between_convolutions_tensors_stay_in_8_bits(folder: Path) -> None:
    """The activation goes into the range of what the convolution gives, and pooling stands between pairs."""
    graph = _quantised(folder, "convolutional").graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for node in graph.node:
        if node.op_type in ("Conv", "MaxPool"):
            assert producers[node.input[0]] == "DequantizeLinear"
            assert readers[node.output[0]] == {"QuantizeLinear"}


def test_between_matrices_of_a_transformer_nothing_else_is_quantised(folder: Path) -> None:
    graph = _quantised(folder, "transformer").graph
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    readers = {node.op_type for node in graph.node if dequantised & set(node.input)}
    assert readers == {"MatMul", "Gemm"}


def test_for_tensorrt_only_what_matrices_read_is_quantised_and_symmetric(folder: Path) -> None:
    for model in ("perceptron", "convolutional", "transformer"):
        graph = _quantised(folder, model, "int8-tensorrt").graph
        constants = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
        dequantised = {
            name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
        }
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                assert dequantised.issuperset(node.input[:2])
            else:
                assert not dequantised & set(node.input)
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert constants[node.input[2]].dtype == np.int8
                assert not constants[node.input[2]].any()
