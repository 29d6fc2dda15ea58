"""Weight clipping: a few outliers no longer decide the scale that all weights of a channel share."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from headrace_engines.compress import graph
from headrace_engines.compress.steps import Clip
from headrace_engines.errors import UnsupportedModelError


def clip(model: onnx.ModelProto, how: Clip, keep: Collection[str]) -> onnx.ModelProto:
    """Return a prepared model whose weights lie within the percentile of each layer.

    A layer of fewer weights than one per step of the percentile (1,000 at 99.9) keeps them all.
    Raises UnsupportedModelError if that changes nothing.
    """
    changed = False
    for node, weights in graph.own_layers(model.graph, keep):
        limit = np.quantile(np.abs(weights), how.percentile / 100, method="higher")
        clipped = np.clip(weights, -limit, limit).astype(weights.dtype)
        if not np.array_equal(clipped, weights):
            graph.replace(model.graph, node.input[1], clipped)
            changed = True
    if not changed:
        raise UnsupportedModelError(
            f"nothing to clip: no layer has a weight beyond its percentile {how.percentile}"
        )
    return model
