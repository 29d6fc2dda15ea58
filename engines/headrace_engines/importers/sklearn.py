"""From a fitted scikit-learn classifier to ONNX.

Only operators of ONNX's own domain are emitted (Sub, Div, Gemm, activations, Softmax), because the
machine-learning domain that other converters use for scikit-learn is unknown to TensorRT. Biases
are one-dimensional, which quantisation per channel needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.base import BaseEstimator
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from headrace_engines.errors import UnsupportedModelError

OPSET = 17
"""Old enough for every ONNX Runtime and TensorRT in use, new enough for per-channel Q/DQ."""

IR_VERSION = 8
"""The ONNX file format that came with opset 17."""

BATCH_AXIS = "batch"

_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": "Identity"}


def convert(estimator: BaseEstimator, *, input_name: str, output_name: str) -> onnx.ModelProto:
    """Return the classifier as a graph from FP32 [batch, features] to FP32 class probabilities.

    Takes an MLPClassifier of three or more classes, alone or last in a Pipeline of MaxAbsScaler
    and StandardScaler steps. The columns of the output are in the order of `classes_`. Raises
    UnsupportedModelError naming whatever else it meets.
    """
    *scalers, classifier = _steps(estimator)
    if not isinstance(classifier, MLPClassifier):
        raise UnsupportedModelError(
            f"{type(classifier).__name__} cannot be converted to ONNX; MLPClassifier can"
        )
    if not hasattr(classifier, "out_activation_"):
        raise UnsupportedModelError("MLPClassifier was not fitted: it has no weights to convert")
    if classifier.out_activation_ != "softmax":
        raise UnsupportedModelError(
            f"MLPClassifier with {classifier.out_activation_} outputs (two classes, or several labels "
            f"at once) cannot be converted to ONNX; one with softmax outputs can"
        )
    graph = _Graph(input_name)
    for scaler in scalers:
        _add_scaler(graph, scaler)
    _add_layers(graph, classifier)
    graph.add("Softmax", output=output_name)
    return graph.model(classifier.n_features_in_, len(classifier.classes_))


def _steps(estimator: BaseEstimator) -> Iterator[BaseEstimator]:
    if not isinstance(estimator, Pipeline):
        yield estimator
        return
    for _, step in estimator.steps:
        yield from _steps(step)


class _Graph:
    """A chain of operators, each of which takes what the last one gave."""

    def __init__(self, input_name: str) -> None:
        self._input = input_name
        self._last = input_name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *weights: NDArray[Any], output: str = "") -> None:
        """Append an operator with its constant operands; its output is named after it unless told."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        operands = [f"{name}_{index}" for index in range(len(weights))]
        for operand, values in zip(operands, weights, strict=True):
            self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), operand))
        output = output or name
        self._nodes.append(helper.make_node(operator, [self._last, *operands], [output], name))
        self._last = output

    def model(self, features: int, classes: int) -> onnx.ModelProto:
        """Return the whole as a checked model whose first axis is the batch."""
        graph = helper.make_graph(
            self._nodes,
            "classifier",
            [helper.make_tensor_value_info(self._input, TensorProto.FLOAT, [BATCH_AXIS, features])],
            [helper.make_tensor_value_info(self._last, TensorProto.FLOAT, [BATCH_AXIS, classes])],
            self._weights,
        )
        model = helper.make_model(
            graph,
            producer_name="headrace",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def _add_scaler(graph: _Graph, scaler: BaseEstimator) -> None:
    match scaler:
        case MaxAbsScaler() if not getattr(scaler, "clip", False):  # older releases never clip
            graph.add("Div", scaler.scale_)
        case StandardScaler():
            if scaler.with_mean:
                graph.add("Sub", scaler.mean_)
            if scaler.with_std:
                graph.add("Div", scaler.scale_)
        case _:
            raise UnsupportedModelError(
                f"{scaler} cannot be converted to ONNX; MaxAbsScaler and StandardScaler can"
            )


def _add_layers(graph: _Graph, classifier: MLPClassifier) -> None:
    last = len(classifier.coefs_) - 1
    for layer, (weights, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True)):
        graph.add("Gemm", weights, bias.reshape(-1))
        if layer < last:
            graph.add(_ACTIVATIONS[classifier.activation])
