"""Small networks that learn from a model's answers, as the graphs they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.errors import UnsupportedModelError

OPSET: Final = 17
_IR_VERSION: Final = 8
_SMALLEST_SHARE: Final = 1e-3
"""Probabilities below this are learnt as this: how small they are is nobody's concern."""

Answers = NDArray[np.float32]


class Ending(Enum):
    """What makes an output of a network's sums: the operator's name."""

    PROBABILITIES = "Softmax"
    PROBABILITY = "Sigmoid"
    VALUE = "Identity"


@dataclass(frozen=True, slots=True)
class Head:
    """One output of a student: `size` columns, or none at all but one value a row."""

    name: str
    ending: Ending
    size: int
    is_flat: bool

    def sums(self, answers: Answers) -> Answers:
        """Return what the student has to add up to, before its ending, to answer as its teacher does."""
        rows = answers.reshape(len(answers), -1)
        match self.ending:
            case Ending.PROBABILITIES:
                logarithms = np.log(np.maximum(rows, _SMALLEST_SHARE))
                return np.asarray(logarithms - logarithms.mean(axis=1, keepdims=True), np.float32)
            case Ending.PROBABILITY:
                share = np.clip(rows, _SMALLEST_SHARE, 1 - _SMALLEST_SHARE)
                return np.asarray(np.log(share / (1 - share)), np.float32)
            case Ending.VALUE:
                return rows


@dataclass(frozen=True, slots=True)
class Labels:
    """An output that names the class to which the head `of` gives most: `table` has the names."""

    name: str
    of: str
    table: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights and bias of a Gemm or Conv, and the stride of the latter; what is hidden ends in a Relu."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int = 1


def head_of(name: str, answers: NDArray[Any]) -> Head:
    """Tell what kind of output a model has from its answers to many rows.

    Raises UnsupportedModelError unless it has one value or one row of values for each row.
    """
    if answers.dtype.kind != "f" or answers.ndim > 2:
        raise UnsupportedModelError(
            f"nothing to distil: output {name!r} is {answers.dtype} of {answers.ndim - 1} dimensions a row; "
            f"a student learns one row of FP32 values"
        )
    rows = answers.reshape(len(answers), -1)
    is_share = bool((rows >= 0).all() and (rows <= 1).all())
    is_sum_one = bool(np.allclose(rows.sum(axis=1), 1, atol=1e-3))
    ending = Ending.VALUE
    if is_share and is_sum_one and rows.shape[1] > 1:
        ending = Ending.PROBABILITIES
    elif is_share and rows.shape[1] == 1:
        ending = Ending.PROBABILITY
    return Head(name, ending, rows.shape[1], answers.ndim == 1)


def labels_of(name: str, answers: NDArray[Any], head: Head, scores: NDArray[Any]) -> Labels:
    """Find the table by which a model names its most probable class.

    Raises UnsupportedModelError if it names classes in another way, or not all were seen.
    """
    best = scores.reshape(len(scores), -1).argmax(axis=1)
    pairs = sorted(set(zip(best.tolist(), answers.reshape(len(answers), -1)[:, 0].tolist(), strict=True)))
    if [place for place, _ in pairs] != list(range(head.size)) or answers.size != len(answers):
        raise UnsupportedModelError(
            f"nothing to distil: output {name!r} is not a label for each of the {head.size} classes of "
            f"{head.name!r}, or the rows do not show all of them"
        )
    return Labels(name, head.name, np.array([label for _, label in pairs], answers.dtype))


def write_student(
    layers: Sequence[Layer],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    heads: Sequence[Head],
    labels: Sequence[Labels],
) -> onnx.ModelProto:
    """Return the network as a model with the tensors of its teacher.

    Several inputs are laid side by side; the columns of the last layer are the heads' one after another.
    """
    chain = _Chain()
    chain.gather(inputs, is_picture=layers[0].weights.ndim == 4)
    for index, layer in enumerate(layers):
        chain.layer(layer, is_last=index == len(layers) - 1)
    chain.end(heads, labels)
    graph = helper.make_graph(chain.nodes, "student", inputs, outputs, chain.constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, producer_name="headrace", opset_imports=[opset], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Chain:
    """Nodes that each take what the last one gave."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._last = ""
        self._is_picture = False

    def _add(self, operator: str, *operands: str, output: str = "", **attributes: Any) -> str:
        name = f"student/{operator.lower()}_{len(self.nodes)}"  # never a name of the teacher's
        self._last = output or name
        self.nodes.append(helper.make_node(operator, operands, [self._last], name, **attributes))
        return self._last

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"student/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def gather(self, inputs: Sequence[onnx.ValueInfoProto], *, is_picture: bool) -> None:
        """Begin with the inputs in FP32, as a matrix unless they are pictures."""
        self._is_picture = is_picture
        parts = []
        for tensor in inputs:
            self._last = tensor.name
            if tensor.type.tensor_type.elem_type != TensorProto.FLOAT:
                self._add("Cast", self._last, to=TensorProto.FLOAT)
            if not is_picture and len(tensor.type.tensor_type.shape.dim) != 2:
                self._add("Flatten", self._last)
            parts.append(self._last)
        if len(parts) > 1:
            self._add("Concat", *parts, axis=1)

    def layer(self, layer: Layer, *, is_last: bool) -> None:
        operands = (self._constant(layer.weights), self._constant(layer.bias))
        if layer.weights.ndim == 4:
            self._add("Conv", self._last, *operands, strides=[layer.stride] * 2, pads=[1] * 4)
        else:
            if self._is_picture:
                self._add("Flatten", self._last)
                self._is_picture = False
            self._add("Gemm", self._last, *operands)
        if not is_last:
            self._add("Relu", self._last)

    def end(self, heads: Sequence[Head], labels: Sequence[Labels]) -> None:
        """Divide the last layer's columns among the heads, and name classes where that is asked for."""
        columns = list(self._columns(heads))
        for head, column in zip(heads, columns, strict=True):
            shaped = self._add("Squeeze", column, self._constant(np.array([1]))) if head.is_flat else column
            options = {"axis": 1} if head.ending is Ending.PROBABILITIES else {}
            self._add(head.ending.value, shaped, output=head.name, **options)
        for label in labels:
            best = self._add("ArgMax", label.of, axis=1, keepdims=0)
            self._add("Gather", self._constant(label.table), best, output=label.name)

    def _columns(self, heads: Sequence[Head]) -> Iterator[str]:
        whole, start = self._last, 0
        for head in heads:
            if len(heads) == 1:
                yield whole
                return
            edges = (np.array([start]), np.array([start + head.size]), np.array([1]))
            yield self._add("Slice", whole, *map(self._constant, edges))
            start += head.size
