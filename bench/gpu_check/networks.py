"""Writes the networks that are tried on a GPU, in FP32.

The digits' networks are trained. The large ones have weights of two values, in filters that come again
after 64: their files become small when they are packed, and no kernel is faster or slower for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.models import INPUT, OUTPUT

_OPSET: Final = 17
_PERIOD: Final = 64
"""Filters until they come again: kernels take them by 64 at most, so they stay alike in any order."""
_RESIDUAL_GAIN: Final = 0.25
"""Of the last convolution in a block, so that what sixteen blocks add to each other stays in FP16's range."""
_STAGES: Final = ((64, 3), (128, 4), (256, 6), (512, 3))
_EXPANSION: Final = 4

Weights = NDArray[np.float32]


class Graph:
    """A network that grows operator by operator; each returns the name of its output."""

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        self._shape = shape
        self._random = np.random.default_rng(seed)
        self._numbers = count()
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *operands: str | Weights, **attributes: Any) -> str:
        """Append an operator; arrays among its operands become weights."""
        name = f"{operator.lower()}{next(self._numbers)}"
        names = []
        for place, operand in enumerate(operands):
            if isinstance(operand, str):
                names.append(operand)
            else:
                names.append(f"{name}_{place}")
                self._weights.append(numpy_helper.from_array(operand, names[-1]))
        self._nodes.append(helper.make_node(operator, names, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def signs(self, filters: int, *dims: int, gain: float = 1.0) -> Weights:
        """Return weights of two values that keep a signal as large as it is, behind a ReLU."""
        size = gain * (2 / np.prod(dims)) ** 0.5
        drawn = self._random.integers(0, 2, (min(filters, _PERIOD), *dims)) * 2 - 1
        return (drawn[np.arange(filters) % len(drawn)] * size).astype(np.float32)

    def bias(self, size: int) -> Weights:
        """Return small biases, in 16 values."""
        return (self._random.integers(-8, 8, size) / 64).astype(np.float32)

    def conv(self, last: str, channels: tuple[int, int], kernel: int, stride: int = 1, **how: float) -> str:
        """Append a convolution that keeps the size, or divides it by the stride."""
        into, out = channels
        half = kernel // 2
        return self.add(
            "Conv",
            last,
            self.signs(out, into, kernel, kernel, **how),
            self.bias(out),
            kernel_shape=[kernel, kernel],
            pads=[half] * 4,
            strides=[stride, stride],
        )

    def model(self, last: str, outputs: int) -> onnx.ModelProto:
        """Return the whole, whose output is `last`."""
        self._nodes.append(helper.make_node("Identity", [last], [OUTPUT], "answer"))
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *self._shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", outputs])],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
        onnx.checker.check_model(model)
        return model


def perceptron(weights: Sequence[Weights], biases: Sequence[Weights]) -> onnx.ModelProto:
    """Return layers with ReLU between them; weights are (inputs, outputs)."""
    graph = Graph((len(weights[0]),))
    last = INPUT
    for place, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        last = graph.add("Relu", last) if place else last
        last = graph.add("Gemm", last, weight.astype(np.float32), bias.astype(np.float32))
    return graph.model(last, len(biases[-1]))


def wide_perceptron(widths: Sequence[int]) -> onnx.ModelProto:
    """Return a perceptron with weights of two values."""
    made = Graph((widths[0],), seed=1)
    pairs = list(pairwise(widths))
    return perceptron(
        [np.ascontiguousarray(made.signs(out, into).T) for into, out in pairs],
        [made.bias(out) for _, out in pairs],
    )


def features(shape: Sequence[int]) -> tuple[Graph, str]:
    """Return two random convolutions of 16 and 32 channels with maxima, and the name of the flat result."""
    graph = Graph(shape, seed=2)
    last = INPUT
    for channels in ((shape[0], 16), (16, 32)):
        last = graph.add("Relu", graph.conv(last, channels, 3))
        last = graph.add("MaxPool", last, kernel_shape=[2, 2], strides=[2, 2])
    return graph, graph.add("Flatten", last)


def resnet50(
    shape: Sequence[int], classes: int, stages: Sequence[tuple[int, int]] = _STAGES
) -> onnx.ModelProto:
    """Return ResNet-50 as it is served: normalisation is part of the convolutions before it.

    `stages` are the width and the number of their blocks.
    """
    graph = Graph(shape, seed=3)
    last = graph.add("Relu", graph.conv(INPUT, (shape[0], 64), 7, 2))
    last = graph.add("MaxPool", last, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (width, blocks) in enumerate(stages):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            last = _bottleneck(graph, last, channels, width, stride)
            channels = width * _EXPANSION
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", last))
    weights = np.ascontiguousarray(graph.signs(classes, channels).T)
    return graph.model(graph.add("Gemm", flat, weights, graph.bias(classes)), classes)


def _bottleneck(graph: Graph, last: str, channels: int, width: int, stride: int) -> str:
    wide = width * _EXPANSION
    inner = graph.add("Relu", graph.conv(last, (channels, width), 1))
    inner = graph.add("Relu", graph.conv(inner, (width, width), 3, stride))
    inner = graph.conv(inner, (width, wide), 1, gain=_RESIDUAL_GAIN)
    beside = last if channels == wide else graph.conv(last, (channels, wide), 1, stride)
    return graph.add("Relu", graph.add("Add", inner, beside))
