from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import small_networks as networks
from onnx import TensorProto

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import RECIPES
from headrace_engines.errors import UnsupportedModelError

_ROWS = {networks.INPUT: networks.scans().calibration}


def _halved(model: onnx.ModelProto, folder: Path, *keep: str) -> onnx.ModelProto:
    onnx.save(model, folder / "model.onnx")
    compress(RECIPES["fp16"], folder / "model.onnx", folder / "fp16.onnx", _ROWS, keep=keep)
    return onnx.load(folder / "fp16.onnx")


@pytest.mark.parametrize("maker", [networks.perceptron, networks.convolutional, networks.transformer])
def test_everything_between_inputs_and_outputs_is_halved(maker: object, tmp_path: Path) -> None:
    halved = _halved(maker(), tmp_path)  # type: ignore[operator]  # each of them makes a model
    floats = {each.data_type for each in halved.graph.initializer} - {TensorProto.INT64}
    assert floats == {TensorProto.FLOAT16}
    for tensor in (*halved.graph.input, *halved.graph.output):
        assert tensor.type.tensor_type.elem_type == TensorProto.FLOAT
    assert sum(node.op_type == "Cast" for node in halved.graph.node) == 2


def test_nodes_come_after_what_they_read(tmp_path: Path) -> None:
    graph = _halved(networks.transformer(), tmp_path, "matmul_22").graph
    known = {each.name for each in (*graph.input, *graph.initializer)}
    for node in graph.node:
        assert known.issuperset(filter(None, node.input)), node.name
        known.update(node.output)


def test_a_model_without_matrices_has_nothing_to_halve(tmp_path: Path) -> None:
    network = networks.Network()
    network.add("Softmax")
    with pytest.raises(UnsupportedModelError, match=r"^fp16: nothing to halve"):
        _halved(network.model(), tmp_path)
