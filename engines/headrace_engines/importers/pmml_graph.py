"""PMML documents as ONNX: sums as Gemm, trees as TreeEnsembleRegressor, and what is calculated around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.classical import LABEL, ML_OPSET, PREDICTION, PROBABILITIES
from headrace_engines.importers.pmml_document import (
    Apply,
    Constant,
    Document,
    Expression,
    FieldRef,
    Filling,
    Given,
    Mining,
    Model,
    Network,
    Regression,
    Table,
    Term,
    Tree,
)
from headrace_engines.importers.pmml_ensemble import Grown, grown, summed
from headrace_engines.importers.pmml_segments import CHAIN, VOTES
from headrace_engines.importers.standard.graph import ML_DOMAIN, Graph, Operand

INPUT: Final = "input"

_ACTIVATIONS: Final = {"logistic": "Sigmoid", "tanh": "Tanh", "rectifier": "Relu"}
_OPERATORS: Final = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div"}


def model_of(document: Document, opset: int) -> onnx.ModelProto:
    """Return a document as a graph from FP32 [batch, columns] to a prediction, or a label and probabilities.

    Labels are the classes' places, INT64. Raises UnsupportedModelError for what cannot be expressed.
    """
    graph = Graph((INPUT, PREDICTION, LABEL, PROBABILITIES), {}, opset)
    columns = {name: place for place, name in enumerate(document.columns)}
    try:
        given = _filled(graph, document) if document.fillings else INPUT
        result = _Writer(graph).model(document.model, _Matrix(given, columns))
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


def _filled(graph: Graph, document: Document) -> str:
    """Write the rows with what is missing in them replaced, in the columns that have a replacement."""
    fillings = [document.fillings.get(name) for name in document.columns]
    values = np.array([filling.value if filling else 0 for filling in fillings], np.float32)
    is_missing = graph.add("And", graph.add("IsNaN", INPUT), np.array([bool(each) for each in fillings]))
    codes = [_exact(filling) for filling in fillings]
    for place in range(max(map(len, codes))):
        told = np.array([each[place] if place < len(each) else 0 for each in codes], np.float32)
        is_code = graph.add(
            "And", graph.add("Equal", INPUT, told), np.array([place < len(each) for each in codes])
        )
        is_missing = graph.add("Or", is_missing, is_code)
    return graph.add("Where", is_missing, values, INPUT)


def _exact(filling: Filling | None) -> list[float]:
    """Return the codes that an FP32 number can be."""
    return [code for code in filling.codes if float(np.float32(code)) == code] if filling else []


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
            case Mining():
                result = self._segments(model.body, model.classes, matrix)
            case Network():
                result = self._network(model.body, matrix)
        if model.classes:
            return result
        return _Result(self._line(result.values, model.factor, model.constant))

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
        rows = self._graph.add("Shape", self._column(matrix, 0))
        return self._graph.add("Expand", np.asarray(value), rows)

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
        scores = self._scores(regression.tables, matrix)
        if not classes:
            return _Result(self._of_number(regression.normalization, scores))
        shares = self._of_classes(regression.normalization, scores, len(regression.tables))
        order = np.argsort([table.category for table in regression.tables])
        if (order == np.arange(len(order))).all():
            return _Result(shares)
        return _Result(self._graph.columns(shares, order.astype(np.int64)))

    def _scores(self, tables: Sequence[Table], matrix: _Matrix) -> str:
        """Write the sums [rows, tables], each of its own fields alone: zero times infinity is not zero."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, table in enumerate(tables):
            named = sorted({matrix.columns[_field(term)] for term in table.terms})
            alike.setdefault(tuple(named), []).append(place)
        parts = [
            self._sums([tables[place] for place in places], used, matrix) for used, places in alike.items()
        ]
        if len(parts) == 1:
            return parts[0]
        order = [place for places in alike.values() for place in places]
        return self._graph.columns(self._graph.add("Concat", *parts, axis=1), np.argsort(order))

    def _sums(self, tables: Sequence[Table], used: tuple[int, ...], matrix: _Matrix) -> str:
        """Write the sums [rows, tables] of tables that name the fields in the same columns."""
        intercepts = np.array([table.intercept for table in tables], np.float32)
        if not used:
            rows = self._graph.add("Shape", self._column(matrix, 0))
            return self._graph.add("Expand", intercepts[None], rows)
        weights = np.zeros((len(used), len(tables)))
        for place, table in enumerate(tables):
            for term in table.terms:
                weights[used.index(matrix.columns[_field(term)]), place] += term.coefficient
        is_whole = used == tuple(range(self._width(matrix)))
        given = matrix.tensor if is_whole else self._graph.columns(matrix.tensor, np.array(used))
        return self._graph.add("Gemm", given, weights.astype(np.float32), intercepts)

    def _network(self, network: Network, matrix: _Matrix) -> _Result:
        graph = self._graph
        values = graph.add("Concat", *(self._value(each, matrix) for each in network.inputs), axis=1)
        for layer in network.layers:
            weights = np.array(layer.weights, np.float32)
            values = graph.add("Gemm", values, weights, np.array(layer.biases, np.float32), transB=1)
            if layer.activation in _ACTIVATIONS:
                values = graph.add(_ACTIVATIONS[layer.activation], values)
            if layer.normalization != "none":
                values = self._of_classes(layer.normalization, values, len(weights))
        if network.outputs != tuple(range(len(network.layers[-1].biases))):
            values = graph.columns(values, np.array(network.outputs))
        return _Result(self._line(values, network.factor, network.constant))

    def _line(self, values: str, factor: float, constant: float) -> str:
        if factor != 1:
            values = self._graph.add("Mul", values, np.float32(factor))
        return self._graph.add("Add", values, np.float32(constant)) if constant else values

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
        found = grown(tree, matrix.columns)
        labels = found.labels
        if (labels == found.values.argmax(axis=1)).all():
            return _Result(summed(self._graph, matrix.tensor, [found]))
        told = replace(found, values=np.column_stack([found.values, labels]))
        both = summed(self._graph, matrix.tensor, [told])
        width = found.values.shape[1]
        values = self._graph.columns(both, np.arange(width))
        label = self._graph.flat(self._graph.columns(both, np.array([width])))
        return _Result(values, self._graph.add("Cast", label, to=TensorProto.INT64))

    def _segments(self, mining: Mining, classes: int, matrix: _Matrix) -> _Result:
        """Write models beside each other: those that are trees alone as one sum of trees."""
        if mining.method == CHAIN:
            return self._chain(mining, matrix)
        trees: list[Grown] = []
        parts: list[str] = []
        for segment in mining.segments:
            if tree := _bare_tree(segment.model):
                found = grown(tree, matrix.columns)
                values = np.eye(classes)[found.labels] if mining.method in VOTES else found.values
                trees.append(replace(found, values=values * segment.weight))
                continue
            result = self.model(segment.model, matrix)
            answer = self._votes(result, classes) if mining.method in VOTES else result.values
            parts.append(self._line(answer, segment.weight, 0))
        if trees:
            parts.append(summed(self._graph, matrix.tensor, trees))
        total = parts[0] if len(parts) == 1 else self._graph.add("Sum", *parts)
        if mining.method == "sum":
            return _Result(total)
        # Divided last, so that whole votes that are equal stay equal.
        weight = sum(segment.weight for segment in mining.segments)
        return _Result(self._graph.add("Div", total, np.float32(weight)))

    def _votes(self, result: _Result, classes: int) -> str:
        """Return one for the class that a model predicts, and zero for the others."""
        label = result.label or self._graph.add("ArgMax", result.values, axis=1, keepdims=0)
        return self._graph.add("Gather", np.eye(classes, dtype=np.float32), label, axis=0)

    def _chain(self, mining: Mining, matrix: _Matrix) -> _Result:
        *before, last = mining.segments
        for segment in before:
            values = self.model(segment.model, matrix).values
            for output in segment.outputs:
                value = (
                    self._graph.columns(values, np.array([output.place]))
                    if isinstance(output, Given)
                    else self._value(output.expression, matrix)
                )
                matrix = self._with(matrix, output.name, value)
        return self.model(last.model, matrix)


def _bare_tree(model: Model) -> Tree | None:
    """Return the tree that a model is, if it is nothing else."""
    if isinstance(model.body, Tree) and not model.derived and (model.factor, model.constant) == (1, 0):
        return model.body
    return None


def _named(field: str, exponent: int) -> str:
    """Return the name of a power, which no field of a document has: they have no line ends."""
    return f"{field}\n{exponent}"


def _field(term: Term) -> str:
    return term.field if term.exponent == 1 else _named(term.field, term.exponent)
