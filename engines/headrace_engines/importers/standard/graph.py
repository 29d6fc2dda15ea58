"""What a rewrite works with: the operator to be replaced, and the graph that takes its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ML_DOMAIN: Final = "ai.onnx.ml"
"""Operators of classical machine learning, which TensorRT's parser does not know."""

FLOAT: Final = int(TensorProto.FLOAT)
INT32: Final = int(TensorProto.INT32)
INT64: Final = int(TensorProto.INT64)
DOUBLE: Final = int(TensorProto.DOUBLE)
STRING: Final = int(TensorProto.STRING)


_SUM_TAKES_AXES: Final = 13
_ALL_TAKE_AXES: Final = 18


Operand = str | NDArray[Any] | np.generic
"""What an operator takes: a tensor by its name, or values that become a constant."""


class Unsuited(Exception):
    """An operator, or a way of using it, that cannot be expressed in ONNX's own domain."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a tensor: its element type (0: unknown) and its rank (None: unknown)."""

    element_type: int = 0
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """A node that is to be replaced.

    `attributes` hold Python's and NumPy's values: text is str, tensors are arrays.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return an attribute that is a list of floats; an empty array where there is none."""
        return np.asarray(self.attributes.get(name, ()), np.float32)

    def integers(self, name: str) -> NDArray[np.int64]:
        """Return an attribute that is a list of integers; an empty array where there is none."""
        return np.asarray(self.attributes.get(name, ()), np.int64)

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is text."""
        return str(self.attributes.get(name, default))


def operator_of(node: onnx.NodeProto) -> Operator:
    """Return the node with its attributes read."""
    return Operator(
        node.op_type,
        tuple(node.input),
        tuple(node.output),
        {attribute.name: _value(attribute) for attribute in node.attribute},
    )


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    match value:
        case bytes():
            return value.decode()
        case TensorProto():
            return numpy_helper.to_array(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [element.decode() for element in value]
    return value


class Graph:
    """Nodes and constants that replace operators, each under a name that the model does not use."""

    def __init__(self, taken: Iterable[str], tensors: Mapping[str, Tensor], opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._taken = set(taken)
        self._tensors = tensors
        self._opset = opset
        self._count = 0

    def tensor(self, name: str) -> Tensor:
        """Return what is known of a tensor of the model."""
        return self._tensors.get(name, Tensor())

    def constant(self, values: Operand, name: str) -> str:
        """Return the name of a new constant; a str is the name of a tensor already, and comes back."""
        if isinstance(values, str):
            return values
        name = self.name(name)
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def add(self, kind: str, *inputs: Operand, output: str = "", **attributes: Any) -> str:
        """Append an operator and return the name of its output; arrays become constants."""
        name = self.name(kind.lower())
        operands = [
            self.constant(operand, f"{name}_{'abcdefgh'[index]}") for index, operand in enumerate(inputs)
        ]
        output = output or name
        self.nodes.append(helper.make_node(kind, operands, [output], name, **attributes))
        return output

    def floats(self, name: str) -> str:
        """Return the tensor as FP32."""
        return name if self.tensor(name).element_type == FLOAT else self.add("Cast", name, to=FLOAT)

    def flat(self, name: str) -> str:
        """Return all the elements of a tensor in one dimension."""
        return self.add("Reshape", name, np.array([-1]))

    def columns(self, name: str, columns: NDArray[np.int64]) -> str:
        """Return columns of a matrix [rows, features]; one that is chosen twice appears twice."""
        return self.add("Gather", name, columns, axis=1)

    def reduced(self, kind: str, value: str, axis: int, *, keepdims: bool = True) -> str:
        """Return a reduction over one axis, which is an attribute or an input as the opset will have it."""
        if self._opset >= (_SUM_TAKES_AXES if kind == "ReduceSum" else _ALL_TAKE_AXES):
            return self.add(kind, value, np.array([axis]), keepdims=int(keepdims))
        return self.add(kind, value, axes=[axis], keepdims=int(keepdims))

    def give(self, value: str, output: str) -> None:
        """Let a value be the output of the operator that is replaced; one that nobody reads has no name."""
        if output:
            self.add("Identity", value, output=output)

    def name(self, name: str) -> str:
        """Return a name that nothing else has, which begins with this one."""
        while True:
            self._count += 1
            candidate = f"{name}_{self._count}"
            if candidate not in self._taken:
                self._taken.add(candidate)
                return candidate
