"""PMML documents as ONNX: sums as Gemm, trees as TreeEnsembleRegressor, and what is calculated around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.classical import LABEL, ML_OPSET, PREDICTION, PROBABILITIES
from headrace_engines.importers.pmml_branches import Branch, Branches, branches
from headrace_engines.importers.pmml_document import (
    Apply,
    Constant,
    Document,
    Expression,
    FieldRef,
    Leaf,
    Model,
    Regression,
    Term,
    Tree,
)
from headrace_engines.importers.standard.graph import ML_DOMAIN, Graph, Operand

INPUT: Final = "input"

_OPERATORS: Final = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div"}


def model_of(document: Document, opset: int) -> onnx.ModelProto:
    """Return a document as a graph from FP32 [batch, columns] to a prediction, or a label and probabilities.

    Labels are the classes' places, INT64. Raises UnsupportedModelError for what cannot be expressed.
    """
    graph = Graph((INPUT, PREDICTION, LABEL, PROBABILITIES), {}, opset)
    columns = {name: place for place, name in enumerate(document.columns)}
    try:
        result = _Writer(graph).model(document.model, _Matrix(INPUT, columns))
    except RecursionError as error:
        raise UnsupportedModelError("the model is nested too deeply to be written as ONNX") from error
    width = len(document.classes) or 1
    outputs = [(PROBABILITIES if document.classes else PREDICTION, TensorProto.FLOAT, [None, width])]
    graph.give(result.values, outputs[0][0])
    if document.classes:
        graph.give(result.label or graph.add("ArgMax", result.values, axis=1, keepdims=0), LABEL)
        outputs.insert(0, (LABEL, TensorProto.INT64, [None]))
    proto = helper.make_graph(
        graph.nodes,
        "model",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, len(columns)])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    return helper.make_model(proto, opset_imports=opsets)


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Fields side by side in one tensor [rows, columns], and the column of each."""

    tensor: str
    columns: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Result:
    """`values` [rows, classes or 1], and the places of the classes [rows] where they are not the highest."""

    values: str
    label: str = ""


class _Writer:
    """Writes models into a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def model(self, model: Model, matrix: _Matrix) -> _Result:
        """Write a model that is asked with the fields of a matrix."""
        for each in model.derived:
            matrix = self._with(matrix, each.name, self._value(each.expression, matrix))
        match model.body:
            case Tree():
                result = self._tree(model.body, matrix)
            case Regression():
                result = self._regression(model.body, model.classes, matrix)
        if model.classes:
            return result
        values = result.values
        if model.factor != 1:
            values = self._graph.add("Mul", values, np.float32(model.factor))
        if model.constant:
            values = self._graph.add("Add", values, np.float32(model.constant))
        return _Result(values)

    def _with(self, matrix: _Matrix, name: str, value: str) -> _Matrix:
        """Return the matrix with one more field at its end."""
        tensor = self._graph.add("Concat", matrix.tensor, value, axis=1)
        return _Matrix(tensor, {**matrix.columns, name: self._width(matrix)})

    def _width(self, matrix: _Matrix) -> int:
        return 1 + max(matrix.columns.values())

    def _value(self, expression: Expression, matrix: _Matrix) -> str:
        """Return the tensor [rows, 1] of what is calculated for each row."""
        value = self._operand(expression, matrix)
        if isinstance(value, str):
            return value
        nothing = self._graph.add("Mul", self._column(matrix, 0), np.float32(0))
        return self._graph.add("Add", nothing, value)

    def _operand(self, expression: Expression, matrix: _Matrix) -> Operand:
        match expression:
            case Constant(value):
                return np.float32(value)
            case FieldRef(name):
                return self._column(matrix, matrix.columns[name])
            case Apply(function, left, right):
                parts = (self._operand(part, matrix) for part in (left, right))
                return self._graph.add(_OPERATORS[function], *parts)

    def _column(self, matrix: _Matrix, place: int) -> str:
        return self._graph.columns(matrix.tensor, np.array([place]))

    def _regression(self, regression: Regression, classes: int, matrix: _Matrix) -> _Result:
        terms = [term for table in regression.tables for term in table.terms]
        for power in sorted({(term.field, term.exponent) for term in terms if term.exponent != 1}):
            column = self._column(matrix, matrix.columns[power[0]])
            value = self._graph.add("Pow", column, np.float32(power[1]))
            matrix = self._with(matrix, _named(*power), value)
        weights = np.zeros((self._width(matrix), len(regression.tables)))
        for place, table in enumerate(regression.tables):
            for term in table.terms:
                weights[matrix.columns[_field(term)], place] += term.coefficient
        intercepts = np.array([table.intercept for table in regression.tables], np.float32)
        scores = self._graph.add("Gemm", matrix.tensor, weights.astype(np.float32), intercepts)
        if not classes:
            return _Result(self._of_number(regression.normalization, scores))
        shares = self._of_classes(regression.normalization, scores, len(regression.tables))
        order = np.argsort([table.category for table in regression.tables])
        if (order == np.arange(len(order))).all():
            return _Result(shares)
        return _Result(self._graph.columns(shares, order.astype(np.int64)))

    def _of_number(self, normalization: str, score: str) -> str:
        match normalization:
            case "softmax" | "logit":
                return self._graph.add("Sigmoid", score)
            case "exp":
                return self._graph.add("Exp", score)
        return score

    def _of_classes(self, normalization: str, scores: str, count: int) -> str:
        graph = self._graph
        if normalization == "softmax":
            return graph.add("Softmax", scores, axis=1)
        if normalization == "simplemax":
            return graph.add("Div", scores, graph.reduced("ReduceSum", scores, 1))
        shares = graph.columns(scores, np.arange(count - 1))
        if normalization == "logit":
            shares = graph.add("Sigmoid", shares)
        remaining = graph.add("Sub", np.float32(1), graph.reduced("ReduceSum", shares, 1))
        return graph.add("Concat", shares, remaining, axis=1)

    def _tree(self, tree: Tree, matrix: _Matrix) -> _Result:
        """Write a tree: a column for each of its values, and for classes one more for the label."""
        found = branches(tree, matrix.columns)
        leaves = [node for node in found if isinstance(node, Leaf)]
        if all(leaf.label == int(np.argmax(leaf.values)) for leaf in leaves):
            return _Result(self._ensemble(found, matrix, [leaf.values for leaf in leaves]))
        both = self._ensemble(found, matrix, [(*leaf.values, float(leaf.label)) for leaf in leaves])
        width = len(leaves[0].values)
        values = self._graph.columns(both, np.arange(width))
        label = self._graph.flat(self._graph.columns(both, np.array([width])))
        return _Result(values, self._graph.add("Cast", label, to=TensorProto.INT64))

    def _ensemble(self, tree: Branches, matrix: _Matrix, values: list[tuple[float, ...]]) -> str:
        """Write a tree whose leaves have these values, in their order."""
        output = self._graph.name("trees")
        attributes = {**_nodes(tree, 0), **_targets(tree, 0, values)}
        width = len(values[0])
        node = helper.make_node(
            "TreeEnsembleRegressor", [matrix.tensor], [output], output, domain=ML_DOMAIN, n_targets=width,
            **{name: array.tolist() for name, array in attributes.items()},
        )  # fmt: skip
        self._graph.nodes.append(node)
        return output


def _named(field: str, exponent: int) -> str:
    """Return the name of a power, which no field of a document has: they have no line ends."""
    return f"{field}\n{exponent}"


def _field(term: Term) -> str:
    return term.field if term.exponent == 1 else _named(term.field, term.exponent)


def _nodes(tree: Branches, number: int) -> dict[str, NDArray[Any]]:
    """Return the attributes that tell the nodes of a tree."""
    count = len(tree)
    end = Branch(0, 0.0, 0, 0)
    asked = [node if isinstance(node, Branch) else end for node in tree]
    return {
        "nodes_treeids": np.full(count, number),
        "nodes_nodeids": np.arange(count),
        "nodes_modes": np.array(
            ["BRANCH_LEQ" if isinstance(node, Branch) else "LEAF" for node in tree], object
        ),
        "nodes_featureids": np.array([node.column for node in asked]),
        "nodes_values": np.array([node.bound for node in asked]),
        "nodes_truenodeids": np.array([node.when_true for node in asked]),
        "nodes_falsenodeids": np.array([node.when_false for node in asked]),
        "nodes_missing_value_tracks_true": np.zeros(count, np.int64),
    }


def _targets(tree: Branches, number: int, values: list[tuple[float, ...]]) -> dict[str, NDArray[Any]]:
    """Return the attributes that tell what the leaves of a tree answer."""
    places = [place for place, node in enumerate(tree) if isinstance(node, Leaf)]
    width = len(values[0])
    return {
        "target_treeids": np.full(len(places) * width, number),
        "target_nodeids": np.repeat(places, width),
        "target_ids": np.tile(np.arange(width), len(places)),
        "target_weights": np.array(values, np.float64).reshape(-1),
    }
