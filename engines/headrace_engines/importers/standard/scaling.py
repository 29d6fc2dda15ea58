"""Columns that are scaled, filled or cut: Scaler, Normalizer, Imputer, Binarizer."""

from __future__ import annotations

import numpy as np

from headrace_engines.importers.standard.graph import FLOAT, Graph, Operator, Unsuited
from headrace_engines.importers.standard.scores import flags

_NORMS = {"L1": "ReduceL1", "L2": "ReduceL2"}


def scaler(graph: Graph, operator: Operator) -> None:
    """Scaler: (x - offset) * scale, column by column."""
    value = graph.floats(operator.inputs[0])
    offset, scale = operator.floats("offset"), operator.floats("scale")
    if offset.any():
        value = graph.add("Sub", value, offset)
    if (scale != 1).any():
        value = graph.add("Mul", value, scale)
    graph.give(value, operator.outputs[0])


def normalizer(graph: Graph, operator: Operator) -> None:
    """Normalizer: each row divided by its norm; a row of zeros stays as it is."""
    value = graph.floats(operator.inputs[0])
    match operator.text("norm", "MAX"):
        case "MAX":
            norm = graph.reduced("ReduceMax", value, -1)
        case kind if kind in _NORMS:
            norm = graph.reduced(_NORMS[kind], value, -1)
        case kind:
            raise Unsuited(f"norm {kind}")
    is_zero = graph.add("Equal", norm, np.float32(0))
    divisor = graph.add("Where", is_zero, np.float32(1), norm)
    graph.give(graph.add("Div", value, divisor), operator.outputs[0])


def imputer(graph: Graph, operator: Operator) -> None:
    """Imputer: what is missing in a column is that column's own value."""
    value = operator.inputs[0]
    if "imputed_value_int64s" in operator.attributes:
        missing_number = np.int64(operator.attributes.get("replaced_value_int64", 0))
        is_missing = graph.add("Equal", value, missing_number)
        filled = graph.add("Where", is_missing, operator.integers("imputed_value_int64s"), value)
    else:
        value = graph.floats(value)
        missing = np.float32(operator.attributes.get("replaced_value_float", 0))
        is_missing = graph.add("IsNaN", value) if np.isnan(missing) else graph.add("Equal", value, missing)
        filled = graph.add("Where", is_missing, operator.floats("imputed_value_floats"), value)
    graph.give(filled, operator.outputs[0])


def binarizer(graph: Graph, operator: Operator) -> None:
    """Binarizer: one above the threshold, else zero."""
    if graph.tensor(operator.inputs[0]).element_type not in (0, FLOAT):
        raise Unsuited("elements that are not FP32")
    threshold = np.float32(operator.attributes.get("threshold", 0))
    is_above = graph.add("Greater", operator.inputs[0], threshold)
    graph.give(flags(graph, is_above), operator.outputs[0])
