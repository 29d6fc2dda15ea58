from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks as networks

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import CPU, TENSORRT, chosen
from headrace_engines.compress.sensitivity import LayerError, errors, layers

_ROWS = {networks.INPUT: networks.scans().calibration}
_HELD_OUT = {networks.INPUT: networks.scans().held_out[:100]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptron whose middle layer has one weight that spoils the scale of its channel."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    made = networks.perceptron()
    onnx.save(made, path)
    return path


def _errors(name: str, model: Path, folder: Path, *keep: str) -> tuple[LayerError, ...]:
    (how,) = chosen([name], (CPU, TENSORRT))
    compress(how, model, folder / "made.onnx", _ROWS, keep=keep)
    return errors(model, folder / "made.onnx", _HELD_OUT)


@pytest.mark.parametrize(
    ("maker", "count"), [(networks.perceptron, 3), (networks.convolutional, 5), (networks.transformer, 19)]
)
@pytest.mark.parametrize("name", ["int8-cpu", "int8-tensorrt", "fp8", "fp16"])
def test_every_layer_is_judged_worst_first(maker: object, count: int, name: str, tmp_path: Path) -> None:
    onnx.save(maker(), tmp_path / "model.onnx")  # type: ignore[operator]  # each of them makes a model
    found = _errors(name, tmp_path / "model.onnx", tmp_path)
    assert {error.name for error in found} == set(layers(tmp_path / "model.onnx"))
    assert len(found) == count
    assert [error.sqnr_db for error in found] == sorted(error.sqnr_db for error in found)
    low, high = {"fp8": (20, 45), "fp16": (50, 90)}.get(name, (25, 60))
    assert all(low < error.sqnr_db < high for error in found), found


def test_layers_that_were_kept_have_no_error_and_others_the_same_as_before(
    model: Path, tmp_path: Path
) -> None:
    before = {error.name: error.sqnr_db for error in _errors("int8-tensorrt", model, tmp_path)}
    after = {error.name: error.sqnr_db for error in _errors("int8-tensorrt", model, tmp_path, "gemm_2")}
    assert after["gemm_2"] == 150
    assert {name: after[name] for name in ("gemm_0", "gemm_4")} == pytest.approx(
        {name: before[name] for name in ("gemm_0", "gemm_4")}
    )


def test_a_layer_whose_outputs_do_not_fit_the_smaller_format_is_the_worst(tmp_path: Path) -> None:
    network = networks.Network()
    network.dense(network.draw(64, 8, fan_in=64), np.zeros(8))
    network.dense(np.full((8, 10), 30_000.0), np.zeros(10))
    onnx.save(network.model(), tmp_path / "model.onnx")
    worst, other = _errors("fp16", tmp_path / "model.onnx", tmp_path)
    assert (worst.name, worst.sqnr_db) == ("gemm_1", -150)
    assert other.sqnr_db > 50


def test_the_layer_that_suffers_most_comes_first(model: Path, tmp_path: Path) -> None:
    spoilt = onnx.load(model)
    (weights,) = (weight for weight in spoilt.graph.initializer if weight.name == "gemm_2_0")
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0] *= 100  # the scale of every channel now suits this input alone
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    found = _errors("int8-tensorrt", tmp_path / "spoilt.onnx", tmp_path)
    assert found[0].name == "gemm_2"
    assert found[0].operator == "Gemm"


def test_layers_of_another_shape_or_operator_are_left_out(model: Path, tmp_path: Path) -> None:
    assert {error.name for error in _errors("prune-structured", model, tmp_path)} == {"gemm_4"}
    assert not _errors("dynamic", model, tmp_path)
    assert not _errors("distil+int8-cpu", model, tmp_path)
