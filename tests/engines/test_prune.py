from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks as networks
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from headrace_engines.compress import graph
from headrace_engines.compress.prune import prune_magnitude, prune_two_of_four
from headrace_engines.compress.steps import PruneMagnitude

_ROWS = {networks.INPUT: networks.scans().calibration}


def _prepared(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "model.onnx")
    return graph.prepared(folder / "model.onnx")


def _by_input(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return each layer's weights as [inputs, the rest]."""
    return {
        node.name: np.moveaxis(weights, graph.axes(node)[0], 0).reshape(
            weights.shape[graph.axes(node)[0]], -1
        )
        for node, weights in graph.layers(model.graph)
    }


@given(st.floats(0, 1))
def test_the_smallest_share_of_the_weights_goes(share: float) -> None:
    network = networks.Network()
    network.dense(network.draw(64, 10, fan_in=64), np.zeros(10))
    model = network.model()
    (before,) = _by_input(model).values()
    (after,) = _by_input(prune_magnitude(model, PruneMagnitude(share), ())).values()
    gone = after == 0
    assert gone.sum() == int(share * before.size)
    np.testing.assert_array_equal(after[~gone], before[~gone])
    assert np.abs(before[gone]).max(initial=0) <= np.abs(before[~gone]).min(initial=np.inf)


@pytest.mark.parametrize("maker", [networks.perceptron, networks.convolutional, networks.transformer])
def test_two_of_every_four_inputs_are_zero_for_every_output(maker: object, tmp_path: Path) -> None:
    model = _prepared(maker(), tmp_path)  # type: ignore[operator]  # each of them makes a model
    before = _by_input(model)
    after = _by_input(prune_two_of_four(model, _ROWS, ()))
    assert after.keys() == before.keys()
    divided = 0
    for name, weights in after.items():
        if len(weights) < 4:
            np.testing.assert_array_equal(weights, before[name])
            continue
        divided += 1
        fours = weights[: len(weights) // 4 * 4].reshape(-1, 4, weights.shape[1])
        assert ((fours == 0).sum(axis=1) == 2).all()
    assert divided >= 3


def test_the_weights_that_stay_take_over_what_the_others_did(tmp_path: Path) -> None:
    model = _prepared(networks.perceptron(), tmp_path)
    exact = networks.answers(model, networks.scans().held_out)
    blind = onnx.ModelProto.FromString(model.SerializeToString())
    for node, weights in graph.own_layers(model.graph, ()):
        fours = np.abs(weights.reshape(-1, 4, weights.shape[1]))
        smallest = np.argsort(np.argsort(fours, axis=1), axis=1) < 2
        graph.replace(blind.graph, node.input[1], weights * ~smallest.reshape(weights.shape))
    pruned = prune_two_of_four(model, _ROWS, ())
    errors = [
        np.square(networks.answers(each, networks.scans().held_out) - exact).sum() for each in (pruned, blind)
    ]
    assert errors[0] < errors[1] / 2


def test_layers_to_keep_stay_whole(tmp_path: Path) -> None:
    model = _prepared(networks.perceptron(), tmp_path)
    before = numpy_helper.to_array(graph.constants(model.graph)["gemm_2_0"])
    for pruned in (
        prune_magnitude(model, PruneMagnitude(), ["gemm_2"]),
        prune_two_of_four(model, _ROWS, ["gemm_2"]),
    ):
        after = numpy_helper.to_array(graph.constants(pruned.graph)["gemm_2_0"])
        np.testing.assert_array_equal(after, before)
