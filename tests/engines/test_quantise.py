from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from headrace_engines import digits
from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import RECIPES

from .conftest import BuiltDigits


@pytest.fixture(scope="module")
def quantised(built_digits: BuiltDigits) -> onnx.ModelProto:
    return onnx.load(built_digits.result.folder / "model.int8-cpu.onnx")


def test_the_same_rows_give_the_same_bytes(built_digits: BuiltDigits, tmp_path: Path) -> None:
    rows = {digits.INPUT: digits.splits().calibration.images}
    compress(RECIPES["int8-cpu"], built_digits.result.folder / "model.onnx", tmp_path / "again.onnx", rows)
    built = built_digits.result.folder / "model.int8-cpu.onnx"
    assert (tmp_path / "again.onnx").read_bytes() == built.read_bytes()


def test_other_rows_give_other_scales(built_digits: BuiltDigits, tmp_path: Path) -> None:
    rows = {digits.INPUT: digits.splits().calibration.images / 2}
    compress(RECIPES["int8-cpu"], built_digits.result.folder / "model.onnx", tmp_path / "other.onnx", rows)
    built = built_digits.result.folder / "model.int8-cpu.onnx"
    assert (tmp_path / "other.onnx").read_bytes() != built.read_bytes()


def test_nothing_is_said_and_the_source_is_untouched(
    built_digits: BuiltDigits,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = built_digits.result.folder / "model.onnx"
    before = model.read_bytes()
    rows = {digits.INPUT: digits.splits().calibration.images}
    compress(RECIPES["int8-cpu"], model, tmp_path / "again.onnx", rows)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert model.read_bytes() == before


def test_weights_are_int8_with_a_scale_for_each_channel(quantised: onnx.ModelProto) -> None:
    constants = {weight.name: numpy_helper.to_array(weight) for weight in quantised.graph.initializer}
    weights = {name: array for name, array in constants.items() if array.ndim == 2}
    assert sorted(array.shape for array in weights.values()) == [(64, 512), (512, 10), (512, 512)]
    for name, array in weights.items():
        assert array.dtype == np.int8
        assert constants[name.replace("_quantized", "_scale")].shape == (array.shape[1],)
        assert not constants[name.replace("_quantized", "_zero_point")].any()


def test_activations_are_unsigned_with_fixed_scales(quantised: onnx.ModelProto) -> None:
    constants = {weight.name: weight for weight in quantised.graph.initializer}
    quantising = [node for node in quantised.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantising) >= 3
    assert {constants[node.input[2]].data_type for node in quantising} == {TensorProto.UINT8}
    assert all(node.input[1] in constants for node in quantising)
    assert "DynamicQuantizeLinear" not in {node.op_type for node in quantised.graph.node}


def test_probabilities_are_not_rounded(quantised: onnx.ModelProto) -> None:
    (last,) = (node for node in quantised.graph.node if digits.OUTPUT in node.output)
    assert last.op_type == "Softmax"
