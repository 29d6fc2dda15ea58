"""Hidden channels that go: where they may, that whatever had them shrinks, and that the rest takes over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks as networks
from onnx import numpy_helper

from headrace_engines.compress import graph
from headrace_engines.compress.hidden import find_hidden
from headrace_engines.compress.steps import PruneStructured
from headrace_engines.compress.structured import prune_structured
from headrace_engines.errors import UnsupportedModelError

_ROWS = {networks.INPUT: networks.scans().calibration}


def _prepared(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "model.onnx")
    return graph.prepared(folder / "model.onnx")


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {node.name: weights.shape for node, weights in graph.layers(model.graph)}


def _twins(network: networks.Network, count: int, make: str = "Gemm") -> None:
    """Append a layer of `count` units, each of which is there twice."""
    half = network.draw(64, count // 2, fan_in=64)
    weights = np.concatenate([half, half], axis=1)
    if make == "Gemm":
        network.dense(weights, np.zeros(count))
    else:
        network.add("MatMul", weights)


_BETWEEN = {
    "nothing": [],
    "an activation": [("Relu",)],
    "activations after one another": [("Tanh",), ("LeakyRelu",), ("Sigmoid",)],
    "a constant for each unit": [("Mul", np.full(16, 2, np.float32)), ("Relu",)],
    "a constant for all": [("Add", np.array(1, np.float32)), ("Elu",)],
    "a constant with an axis for rows": [("Div", np.full((1, 16), 3, np.float32))],
    "a slope for each unit": [("PRelu", np.full(16, 0.1, np.float32))],
    "a flattening that does nothing": [("Flatten",)],
}


@pytest.mark.parametrize("maker", ["Gemm", "MatMul"])
@pytest.mark.parametrize("between", _BETWEEN)
def test_units_that_are_there_twice_go_without_a_trace(between: str, maker: str, tmp_path: Path) -> None:
    network = networks.Network()
    _twins(network, 16, maker)
    for operator, *operands in _BETWEEN[between]:
        network.add(operator, *operands)
    network.dense(network.draw(16, 10, fan_in=16), np.zeros(10))
    model = _prepared(network.model(), tmp_path)
    exact = networks.answers(model, networks.scans().held_out)
    pruned = prune_structured(model, PruneStructured(1e-6), _ROWS, ())
    onnx.checker.check_model(pruned, full_check=True)
    assert list(_shapes(pruned).values()) == [(64, 8), (8, 10)]
    found = networks.answers(pruned, networks.scans().held_out)
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def _image(network: networks.Network) -> networks.Network:
    network.add("Reshape", np.array([0, 1, 8, 8], np.int64))
    half = network.draw(8, 1, 3, 3, fan_in=9)
    network.add("Conv", np.concatenate([half, half]), pads=[1, 1, 1, 1])
    return network


_ENDS = {
    "a convolution": (("Conv", (5, 16, 3, 3)),),
    "a depthwise convolution": (("Conv", (16, 1, 3, 3), {"group": 16}), ("Conv", (5, 16, 1, 1))),
    "pooling and flattening": (("MaxPool", {"kernel_shape": [2, 2]}), ("Flatten",), ("Gemm", (16 * 49, 5))),
    "a reshape": (("AveragePool", {"kernel_shape": [4, 4]}), ("Reshape", [-1, 400]), ("Gemm", (400, 5))),
    "a reshape as PyTorch writes it": (
        ("AveragePool", {"kernel_shape": [4, 4]}),
        ("Reshape", [-1, 400], {"allowzero": 1}),
        ("Gemm", (400, 5)),
    ),
    "a mean over the picture": (("GlobalAveragePool",), ("Flatten",), ("Gemm", (16, 5))),
    "a reduction": (("ReduceMean", {"axes": [2, 3], "keepdims": 0}), ("MatMul", (16, 5))),
    "channels last": (("Transpose", {"perm": [0, 2, 3, 1]}), ("Relu",), ("MatMul", (16, 5))),
    "normalisation": (("BatchNormalization",), ("Relu",), ("Conv", (5, 16, 1, 1))),
}


@pytest.mark.parametrize("end", _ENDS)
def test_channels_go_through_whatever_hands_them_on_one_by_one(end: str, tmp_path: Path) -> None:
    network = _image(networks.Network())
    network.add("Relu")
    for operator, *rest in _ENDS[end]:
        attributes = next((each for each in rest if isinstance(each, dict)), {})
        operands = [_operand(network, each) for each in rest if not isinstance(each, dict)]
        if operator == "BatchNormalization":
            operands = [np.tile(network.random.uniform(0.5, 1, 8).astype(np.float32), 2) for _ in range(4)]
        network.add(operator, *operands, **attributes)
    model = network.model()
    hidden = next(find_hidden(model, ()))
    exact = networks.answers(model, networks.scans().held_out)
    pruned = prune_structured(model, PruneStructured(1e-6), _ROWS, ())
    onnx.checker.check_model(pruned, full_check=True)
    shapes = _shapes(pruned)
    assert shapes[hidden.maker.name] == (8, 1, 3, 3)
    found = networks.answers(pruned, networks.scans().held_out)
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def _operand(network: networks.Network, given: list[int] | tuple[int, ...]) -> np.ndarray:
    if isinstance(given, list):
        return np.array(given, np.int64)
    weights = network.draw(*given, fan_in=16)
    return np.concatenate([weights[:8], weights[:8]]) if given[0] == 16 and given[1:2] != (5,) else weights


def _residual(network: networks.Network) -> None:
    before = network.last
    network.dense(network.draw(16, 16, fan_in=16), np.zeros(16))
    network.add("Add", network.last, before)


def _normalised(network: networks.Network) -> None:
    network.add("LayerNormalization", np.ones(16, np.float32), np.zeros(16, np.float32))


def _softmax(network: networks.Network) -> None:
    network.add("Softmax")


@pytest.mark.parametrize("mixes", [_residual, _normalised, _softmax])
def test_channels_that_something_else_needs_stay(mixes: object) -> None:
    network = networks.Network()
    _twins(network, 16)
    mixes(network)  # type: ignore[operator]  # each of them appends nodes
    network.dense(network.draw(16, 10, fan_in=16), np.zeros(10))
    model = network.model()
    assert "gemm_0" not in {hidden.maker.name for hidden in find_hidden(model, ())}


def test_outputs_of_the_model_and_constants_of_several_nodes_stay() -> None:
    network = networks.Network()
    _twins(network, 16)
    assert not list(find_hidden(network.model(), ()))
    shared = networks.Network()
    _twins(shared, 16)
    shared.add("Add", shared.last, "gemm_0_1")
    shared.dense(shared.draw(16, 10, fan_in=16), np.zeros(10))
    assert not list(find_hidden(shared.model(), ()))


@pytest.mark.parametrize("keep", ["gemm_0", "gemm_4"])
def test_neither_side_of_hidden_units_may_be_one_to_keep(keep: str, tmp_path: Path) -> None:
    model = _prepared(networks.perceptron(), tmp_path)
    before = _shapes(model)
    after = _shapes(prune_structured(model, PruneStructured(), _ROWS, [keep]))
    assert after[keep][keep == "gemm_0"] == before[keep][keep == "gemm_0"]
    assert after != before


def test_what_is_left_is_a_multiple_that_kernels_want(tmp_path: Path) -> None:
    model = _prepared(networks.convolutional(), tmp_path)
    pruned = prune_structured(model, PruneStructured(multiple=4), _ROWS, ())
    sizes = {name: shape[graph.axes(node)[1]] for node, shape in _nodes(pruned) for name in [node.name]}
    *hidden, answers = sizes.values()
    assert answers == 10
    assert all(size % 4 == 0 for size in hidden)
    (depthwise,) = (node for node, shape in _nodes(pruned) if shape[1] == 1 and node.name != "conv_1")
    assert graph.attribute(depthwise, "group", 1) == sizes[depthwise.name]


def _nodes(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, tuple[int, ...]]]:
    return [(node, weights.shape) for node, weights in graph.layers(model.graph)]


def test_units_that_none_explains_all_stay() -> None:
    network = networks.Network()
    network.dense(np.eye(64)[:, 24:40], np.zeros(16))
    network.dense(network.draw(16, 10, fan_in=16), np.zeros(10))
    with pytest.raises(
        UnsupportedModelError, match=r"^nothing to prune: no hidden unit or channel is explained"
    ):
        prune_structured(network.model(), PruneStructured(1e-6), _ROWS, ())


def test_fewer_rows_than_units_remove_none_that_they_cannot_judge(tmp_path: Path) -> None:
    model = _prepared(networks.perceptron(), tmp_path)
    few = {networks.INPUT: networks.scans().calibration[:12]}
    with pytest.raises(UnsupportedModelError, match="explained by the others"):
        prune_structured(model, PruneStructured(), few, ())


def test_what_nothing_is_left_to_explain_of_fills_up_a_multiple_without_an_overflow() -> None:
    network = networks.Network()
    network.dense(np.tile(1e6 * network.draw(64, 5, fan_in=64), 8), np.zeros(40))
    network.dense(network.draw(40, 10, fan_in=40), np.zeros(10))
    with np.errstate(all="raise"):
        pruned = prune_structured(network.model(), PruneStructured(1e-6, multiple=32), _ROWS, ())
    assert list(_shapes(pruned).values()) == [(64, 32), (32, 10)]


def test_weights_take_over_in_proportion() -> None:
    """One unit is three times another, so what reads both can read one."""
    network = networks.Network()
    weights = network.draw(64, 8, fan_in=64)
    network.dense(np.concatenate([weights, 3 * weights], axis=1), np.zeros(16))
    reading = network.draw(16, 10, fan_in=16)
    network.dense(reading, np.zeros(10))
    pruned = prune_structured(network.model(), PruneStructured(1e-6), _ROWS, ())
    left = numpy_helper.to_array(graph.constants(pruned.graph)["gemm_1_0"])
    np.testing.assert_allclose(left, reading[8:] + reading[:8] / 3, atol=0.02)
