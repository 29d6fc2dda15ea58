"""A plain interpreter of PMML documents in FP64, by the words of the standard: what ONNX is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import InputError
from headrace_engines.importers.pmml_document import (
    Always,
    Apply,
    Comparison,
    Compound,
    Constant,
    Document,
    Expression,
    FieldRef,
    Given,
    Leaf,
    Membership,
    Mining,
    Model,
    Network,
    Node,
    Predicate,
    Regression,
    Tree,
)
from headrace_engines.importers.pmml_segments import CHAIN, VOTES

Column = NDArray[np.float64]
"""A field's values, [rows]."""

Fields = Mapping[str, Column]

_COMPARED: Final = {
    "equal": np.equal,
    "notEqual": np.not_equal,
    "lessThan": np.less,
    "lessOrEqual": np.less_equal,
    "greaterThan": np.greater,
    "greaterOrEqual": np.greater_equal,
}
_CALCULATED: Final = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is predicted: `values` [rows, classes or 1], and `labels` [rows], which are places of classes."""

    values: NDArray[np.float64]
    labels: NDArray[np.int64]


def answer(document: Document, rows: NDArray[Any]) -> Answer:
    """Return what a document answers to rows [rows, columns]; InputError if they do not fit it."""
    width = len(document.columns)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise InputError(f"the model takes rows of {width} numbers, and these are of shape {rows.shape[1:]}")
    fields = dict(zip(document.columns, rows.astype(np.float64).T, strict=True))
    for name, filling in document.fillings.items():
        is_missing = np.isnan(fields[name]) | np.isin(fields[name], filling.codes)
        fields[name] = np.where(is_missing, filling.value, fields[name])
    if any(np.isnan(column).any() for column in fields.values()):
        raise InputError("a value is missing (NaN): fill in what is missing before the model is called")
    with np.errstate(all="ignore"):  # what is divided by zero is infinite here as it is in ONNX
        return predicted(document.model, fields, len(rows))


def predicted(model: Model, given: Fields, count: int) -> Answer:
    """Return what a model says of `count` rows whose fields are given."""
    fields = dict(given)
    for each in model.derived:
        fields[each.name] = _calculated(each.expression, fields, count)
    match model.body:
        case Tree():
            found = _from_tree(model.body, fields, count)
        case Regression():
            found = _from_tables(model.body, model.classes, fields, count)
        case Mining():
            found = _from_segments(model.body, model.classes, fields, count)
        case Network():
            found = _from_network(model.body, fields, count)
    return found if model.classes else Answer(found.values * model.factor + model.constant, found.labels)


def _calculated(expression: Expression, fields: Fields, count: int) -> Column:
    match expression:
        case Constant(value):
            return np.full(count, value)
        case FieldRef(name):
            return fields[name]
        case Apply(function, left, right):
            parts = (_calculated(part, fields, count) for part in (left, right))
            return np.asarray(_CALCULATED[function](*parts))


def _from_network(network: Network, fields: Fields, count: int) -> Answer:
    values = np.stack([_calculated(each, fields, count) for each in network.inputs], axis=1)
    for layer in network.layers:
        values = _activated(layer.activation, values @ np.array(layer.weights).T + np.array(layer.biases))
        if layer.normalization != "none":
            values = _of_classes(layer.normalization, values)
    values = values[:, list(network.outputs)] * network.factor + network.constant
    return Answer(values, values.argmax(axis=1))


def _activated(activation: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    match activation:
        case "logistic":
            return 1 / (1 + np.exp(-values))
        case "tanh":
            return np.tanh(values)
        case "rectifier":
            return np.maximum(values, 0)
    return values


def _from_segments(mining: Mining, classes: int, fields: Fields, count: int) -> Answer:
    if mining.method == CHAIN:
        return _from_chain(mining, fields, count)
    found = [predicted(segment.model, fields, count) for segment in mining.segments]
    weights = np.array([segment.weight for segment in mining.segments])
    counted = [np.eye(classes)[each.labels] if mining.method in VOTES else each.values for each in found]
    values = np.tensordot(weights, np.stack(counted), axes=1)
    if mining.method != "sum":
        values = values / weights.sum()  # divided last, so that whole votes that are equal stay equal
    return Answer(values, values.argmax(axis=1))


def _from_chain(mining: Mining, given: Fields, count: int) -> Answer:
    fields = dict(given)
    *before, last = mining.segments
    for segment in before:
        found = predicted(segment.model, fields, count)
        for output in segment.outputs:
            fields[output.name] = (
                found.values[:, output.place]
                if isinstance(output, Given)
                else _calculated(output.expression, fields, count)
            )
    return predicted(last.model, fields, count)


def _from_tables(regression: Regression, classes: int, fields: Fields, count: int) -> Answer:
    sums = [
        sum((term.coefficient * fields[term.field] ** term.exponent for term in table.terms), np.zeros(count))
        + table.intercept
        for table in regression.tables
    ]
    scores = np.stack(sums, axis=1)
    if not classes:
        return Answer(_of_number(regression.normalization, scores), np.zeros(count, np.int64))
    shares = _of_classes(regression.normalization, scores)
    values = np.zeros((count, classes))
    values[:, [table.category for table in regression.tables]] = shares
    return Answer(values, values.argmax(axis=1))


def _of_number(normalization: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    match normalization:
        case "softmax" | "logit":
            return 1 / (1 + np.exp(-scores))
        case "exp":
            return np.exp(scores)
    return scores


def _of_classes(normalization: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities, in the order of the tables; without a softmax the last one is what remains."""
    if normalization == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    if normalization == "simplemax":
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))
    first = scores[:, :-1]
    shares = 1 / (1 + np.exp(-first)) if normalization == "logit" else first
    return np.hstack([shares, 1 - shares.sum(axis=1, keepdims=True)])


def _from_tree(tree: Tree, fields: Fields, count: int) -> Answer:
    leaves = np.empty(count, object)
    _walk(tree, tree.root, fields, np.arange(count), leaves)
    values = np.array([leaf.values for leaf in leaves], np.float64)
    return Answer(values, np.array([leaf.label for leaf in leaves], np.int64))


def _walk(tree: Tree, node: Node, fields: Fields, rows: NDArray[np.int64], leaves: NDArray[Any]) -> None:
    """Put into `leaves` where the rows end that have come to a node."""
    for child in node.children if len(rows) else ():
        holds = _holds(child.predicate, {name: column[rows] for name, column in fields.items()}, len(rows))
        _walk(tree, child, fields, rows[holds], leaves)
        rows = rows[~holds]
    if len(rows):
        leaves[rows] = _own(tree, node)


def _own(tree: Tree, node: Node) -> Leaf:
    if node.leaf is None or (node.children and not tree.falls_back):
        raise InputError("a row ends at a node none of whose children is for it: the tree has no answer")
    return node.leaf


def _holds(predicate: Predicate, fields: Fields, count: int) -> NDArray[np.bool_]:
    match predicate:
        case Always(is_true):
            return np.full(count, is_true)
        case Comparison(name, operator, value):
            return np.asarray(_COMPARED[operator](fields[name], value))
        case Membership(name, values, is_in):
            return np.isin(fields[name], values, invert=not is_in)
        case Compound(needs_all, parts):
            held = [_holds(part, fields, count) for part in parts]
            return np.asarray((np.logical_and if needs_all else np.logical_or).reduce(held))
