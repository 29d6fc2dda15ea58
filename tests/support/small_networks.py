"""Small networks that read scikit-learn's digits: each kind of graph that compression has to deal with.

Only the last layers of the convolutional network and of the transformer are trained, on what random
ones before them make of the scans; that suffices for answers which are right nearly always.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT = "image"
OUTPUT = "probabilities"
_TRAIN, _CALIBRATION = 1000, 200


@dataclass(frozen=True)
class Scans:
    """Digits (rows, 64), pixels of 0 to 1, and what they show, in three parts."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    calibration: NDArray[np.float32]
    held_out: NDArray[np.float32]
    labels: NDArray[np.int64]


@cache
def scans() -> Scans:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    first, second = _TRAIN, _TRAIN + _CALIBRATION
    return Scans(images[:first], labels[:first], images[first:second], images[second:], labels[second:])


class Network:
    """A graph that grows by one operator at a time, each of which takes what the last one gave."""

    def __init__(self, dims: Sequence[int | str] = (64,), seed: int = 0) -> None:
        self.dims = dims
        self.last = INPUT
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)
        self._numbers = count()

    def add(self, operator: str, *operands: str | NDArray[Any], **attributes: Any) -> str:
        """Append an operator; without an operand that is a name, its first one is the last output."""
        name = f"{operator.lower()}_{next(self._numbers)}"
        names = [] if any(isinstance(operand, str) for operand in operands) else [self.last]
        for index, operand in enumerate(operands):
            if not isinstance(operand, str):
                self.weights.append(numpy_helper.from_array(operand, f"{name}_{index}"))
            names.append(operand if isinstance(operand, str) else f"{name}_{index}")
        self.nodes.append(helper.make_node(operator, names, [f"{name}_out"], name, **attributes))
        self.last = f"{name}_out"
        return self.last

    def draw(self, *dims: int, fan_in: int) -> NDArray[np.float32]:
        """Return random weights, of the size that keeps a signal as large as it is."""
        return (self.random.normal(size=dims) * np.sqrt(2 / fan_in)).astype(np.float32)

    def dense(self, weights: NDArray[Any], bias: NDArray[Any]) -> None:
        self.add("Gemm", weights.astype(np.float32), bias.astype(np.float32))

    def model(self) -> onnx.ModelProto:
        made = onnx.shape_inference.infer_shapes(self.unchecked())
        onnx.checker.check_model(made, full_check=True)
        return made

    def unchecked(self) -> onnx.ModelProto:
        nodes = [*self.nodes, helper.make_node("Identity", [self.last], [OUTPUT], "output")]
        graph = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *self.dims])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)],
            self.weights,
        )
        graph.output[0].ClearField("type")
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def classify(self, hidden: tuple[int, ...]) -> onnx.ModelProto:
        """Append trained layers that tell the digits apart, and return the whole."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits

        data = scans()
        features = answers(self.model(), data.train) if self.nodes else data.train
        classifier = MLPClassifier(
            hidden, learning_rate_init=0.005, batch_size=50, max_iter=15, random_state=0
        )
        with threadpool_limits(1), warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
            classifier.fit(features, data.train_labels)
        for layer, (weights, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True)):
            if layer:
                self.add("Relu")
            self.dense(weights, bias)
        self.add("Softmax")
        return self.model()


def _made_once(make: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """Train each network once, and give everybody one of their own to change."""
    made = cache(lambda *arguments: make(*arguments).SerializeToString())

    @wraps(make)
    def copied(*arguments: Any) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(made(*arguments))

    return copied


@_made_once
def perceptron(hidden: tuple[int, ...] = (128, 96)) -> onnx.ModelProto:
    return Network().classify(hidden)


@_made_once
def logistic() -> onnx.ModelProto:
    return Network().classify(())


@_made_once
def convolutional(
    channels: tuple[int, ...] = (1, 16, 32), hidden: tuple[int, ...] = (64,)
) -> onnx.ModelProto:
    """Convolutions with batch normalisation and a depthwise one, pooling, and trained dense layers."""
    network = Network()
    network.add("Reshape", np.array([0, 1, 8, 8], np.int64))
    for before, after in pairwise(channels):
        network.add("Conv", network.draw(after, before, 3, 3, fan_in=before * 9), pads=[1, 1, 1, 1])
        ones = np.ones(after, np.float32)
        network.add("BatchNormalization", ones, 0.1 * ones, 0 * ones, ones)
        network.add("Relu")
    network.add("Conv", network.draw(after, 1, 3, 3, fan_in=9), pads=[1, 1, 1, 1], group=after)
    network.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    network.add("Flatten")
    return network.classify(hidden)


@_made_once
def transformer(width: int = 32, blocks: int = 2, heads: int = 4) -> onnx.ModelProto:
    """Rows of pixels as a sequence of eight, attention and feed-forward layers, and a trained end."""
    network = Network()
    network.add("Reshape", np.array([0, 8, 8], np.int64))
    network.add("MatMul", network.draw(8, width, fan_in=8))
    network.add("Add", network.draw(8, width, fan_in=8))
    for _ in range(blocks):
        _attend(network, width, heads)
        _feed_forward(network, width)
    network.add("Reshape", np.array([0, 8 * width], np.int64))
    return network.classify((64,))


def _attend(network: Network, width: int, heads: int) -> None:
    before = network.last
    normal = network.add("LayerNormalization", np.ones(width, np.float32), np.zeros(width, np.float32))
    parts = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        network.add("MatMul", normal, network.draw(width, width, fan_in=2 * width))
        network.add("Add", network.draw(width, fan_in=100))
        network.add("Reshape", np.array([0, 8, heads, width // heads], np.int64))
        parts.append(network.add("Transpose", perm=order))
    network.add("MatMul", parts[0], parts[1])
    network.add("Mul", np.array((width // heads) ** -0.5, np.float32))
    network.add("Softmax", axis=-1)
    network.add("MatMul", network.last, parts[2])
    network.add("Transpose", perm=[0, 2, 1, 3])
    network.add("Reshape", np.array([0, 8, width], np.int64))
    network.add("MatMul", network.draw(width, width, fan_in=2 * width))
    network.add("Add", network.last, before)


def _feed_forward(network: Network, width: int) -> None:
    before = network.last
    network.add("LayerNormalization", np.ones(width, np.float32), np.zeros(width, np.float32))
    network.add("MatMul", network.draw(width, 4 * width, fan_in=2 * width))
    wide = network.add("Add", network.draw(4 * width, fan_in=100))
    network.add("Div", np.array(2**0.5, np.float32))
    network.add("Erf")
    network.add("Add", np.array(1, np.float32))
    network.add("Mul", wide, network.last)
    network.add("Mul", np.array(0.5, np.float32))
    network.add("MatMul", network.draw(4 * width, width, fan_in=8 * width))
    network.add("Add", network.draw(width, fan_in=100))
    network.add("Add", network.last, before)


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """ResNet-50's graph from the onnx package with random weights of a sane size, for any batch."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    model = onnx.load(folder / "light_resnet50.onnx")
    random = np.random.default_rng(seed)
    graph = model.graph
    shapes = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    made = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    added = {name for node in graph.node if node.op_type == "Sum" for name in node.input}
    ones = {}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            # What is added up would grow with every block if all of it were of size one.
            ones |= {node.input[1]: 0.5 if node.output[0] in added else 1.0, node.input[4]: 1.0}
    for node in made:
        dims, name = tuple(shapes[node.input[0]]), node.output[0]
        if name in ones:
            values = np.full(dims, ones[name])
        else:
            values = random.normal(size=dims) * (np.sqrt(2 / np.prod(dims[1:])) if len(dims) > 1 else 0.1)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    data, answer = graph.input[0], graph.output[0]
    del graph.input[:], graph.output[:], graph.value_info[:], graph.initializer[:]
    graph.initializer.extend(weights)
    data.type.tensor_type.shape.dim[0].dim_param = "batch"
    answer.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.input.append(data)
    graph.output.append(answer)
    for node in graph.node:
        if node.op_type == "Reshape":
            graph.initializer.append(numpy_helper.from_array(np.array([0, -1], np.int64), "flat"))
            node.input[1] = "flat"
    model.ir_version = 8  # older ones want constants among the inputs
    return onnx.version_converter.convert_version(model, 17)


def answers(model: onnx.ModelProto | Path, rows: NDArray[Any]) -> NDArray[Any]:
    """Return the first output of a model of one input."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # What is fused beyond this level is not meant for FP8 and changes its answers.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: rows})[:1]
    return np.asarray(result)


def accuracy(model: onnx.ModelProto | Path) -> float:
    """Return the share of the held-out scans that a model reads rightly."""
    return float((answers(model, scans().held_out).argmax(axis=1) == scans().labels).mean())
