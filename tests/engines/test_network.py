from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx_models import Models

from headrace_engines.errors import ModelFileError
from headrace_engines.network import network


def test_layers_and_parameters_are_counted(models: Models) -> None:
    found = network(models.mlp((4, 8, 3)))
    assert [(layer.operator, layer.parameters) for layer in found.layers] == [
        ("Gemm", 4 * 8 + 8),
        ("Relu", 0),
        ("Gemm", 8 * 3 + 3),
    ]
    assert found.parameters == 67
    assert found.operators == [("Gemm", 2, 67), ("Relu", 1, 0)]
    assert found.opsets == {"ai.onnx": 17}
    assert len({layer.name for layer in found.layers}) == 3


def test_weights_in_a_file_beside_are_counted_though_it_is_not_there(models: Models, tmp_path: Path) -> None:
    model = onnx.load(models.mlp((4, 8, 3)))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "w.data").unlink()
    assert network(tmp_path / "m.onnx").parameters == 67


def test_weights_that_two_layers_share_count_once(models: Models) -> None:
    node = [
        onnx.helper.make_node("Add", ["x", "w"], ["h"]),
        onnx.helper.make_node("Mul", ["h", "w"], ["y"]),
    ]
    path = models.save(
        node, weights={"w": onnx.numpy_helper.to_array(onnx.helper.make_tensor("w", 1, [3], [1, 2, 3]))}
    )
    assert network(path).parameters == 3


def test_what_is_no_network_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"broken")
    with pytest.raises(ModelFileError, match=r"^m\.onnx: it cannot be parsed: the file has 6 bytes"):
        network(tmp_path / "m.onnx")
