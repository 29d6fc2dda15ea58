from __future__ import annotations

import numpy as np
import onnx
import pytest
import small_networks as networks
from onnx import numpy_helper

from headrace_engines.compress import graph
from headrace_engines.compress.clip import clip
from headrace_engines.compress.steps import Clip
from headrace_engines.errors import UnsupportedModelError


def _weights(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(graph.constants(model.graph)[name])


def test_the_largest_weights_of_a_layer_are_moved_to_the_percentile() -> None:
    model = networks.perceptron()
    before = _weights(model, "gemm_0_0")
    after = _weights(clip(model, Clip(99.0), ()), "gemm_0_0")
    limit = np.abs(after).max()
    assert 0.005 < np.mean(np.abs(before) > limit) <= 0.01
    np.testing.assert_array_equal(after, np.clip(before, -limit, limit))


def test_layers_to_keep_and_small_ones_stay_whole() -> None:
    model = networks.perceptron()
    names = ["gemm_2_0", "gemm_4_0"]  # the second has fewer weights than one is a thousandth of
    before = [_weights(model, name) for name in names]
    clipped = clip(model, Clip(), ["gemm_2"])
    for name, weights in zip(names, before, strict=True):
        np.testing.assert_array_equal(_weights(clipped, name), weights)


def test_a_model_of_few_weights_has_nothing_to_clip() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"^nothing to clip: no layer has a weight beyond .*99\.9$"
    ):
        clip(networks.logistic(), Clip(), ())
