"""Rows like those that a model was trained with, as far as it tells of them itself.

Support vectors are such rows, and the thresholds of trees lie among the values of each column. A model that
comes without data is judged by rows near them: far from its support vectors, a machine with a kernel that
falls off answers the same to every row, and trees do outside their thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from headrace_engines.importers.standard.graph import ML_DOMAIN, Operator, operator_of

_MACHINES: Final = ("SVMClassifier", "SVMRegressor")
_TREES: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_CARRIED: Final = {"Cast": 0, "Identity": 0, "Imputer": 0, "Scaler": 0, "Where": 2}
"""Of operators that leave each column where it is: which of their inputs the rows are."""
_MOST_ROWS: Final = 512
_RANK: Final = 2


def rows(model: onnx.ModelProto) -> NDArray[np.float32] | None:
    """Return rows [rows, features] for a model of one FP32 matrix, as an exporter wrote it; None for others.

    The same model gives the same rows.
    """
    features = _features(model.graph)
    if not features:
        return None
    made = {name: node for node in model.graph.node for name in node.output}
    random = np.random.default_rng(0)
    parts: list[NDArray[np.float64]] = []
    for node in model.graph.node:
        if node.domain != ML_DOMAIN or node.op_type not in (*_MACHINES, *_TREES):
            continue
        operator = operator_of(node)
        known = _vectors if node.op_type in _MACHINES else _thresholds
        told = known(operator, features, random)
        came = None if told is None else _unscaled(told, operator.inputs[0], model, made)
        if came is not None:
            parts.append(came)
    found = np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, features), np.float32)
    found = found[np.isfinite(found).all(axis=1)]
    return found[random.permutation(len(found))[:_MOST_ROWS]] if len(found) else None


def _features(graph: onnx.GraphProto) -> int:
    """Return how many columns the only input has; 0 where there is no such matrix."""
    if len(graph.input) != 1:
        return 0
    kind = graph.input[0].type.tensor_type
    dims = kind.shape.dim
    return dims[1].dim_value if kind.elem_type == onnx.TensorProto.FLOAT and len(dims) == _RANK else 0


def _vectors(operator: Operator, features: int, random: np.random.Generator) -> NDArray[np.float64] | None:
    """Return support vectors; a linear machine has none."""
    vectors = operator.floats("support_vectors").astype(np.float64)
    if not vectors.size or vectors.size % features:
        return None
    vectors = vectors.reshape(-1, features)
    return vectors[random.permutation(len(vectors))[:_MOST_ROWS]]


def _thresholds(operator: Operator, features: int, random: np.random.Generator) -> NDArray[np.float64] | None:
    """Return rows whose columns are thresholds of their own; noise where trees do not ask for one."""
    asked = np.asarray(operator.attributes.get("nodes_featureids", ()), np.int64)
    bounds = operator.floats("nodes_values")
    decides = np.asarray(operator.attributes.get("nodes_modes", ())) != "LEAF"
    if len(bounds) != len(asked) or asked[decides].max(initial=0) >= features:
        return None
    found = random.standard_normal((_MOST_ROWS, features))
    for feature in np.unique(asked[decides]):
        own = bounds[decides & (asked == feature) & np.isfinite(bounds)]
        if own.size:
            found[:, feature] = random.choice(own, _MOST_ROWS)
    return found


def _unscaled(
    values: NDArray[np.float64], name: str, model: onnx.ModelProto, made: Mapping[str, onnx.NodeProto]
) -> NDArray[np.float64] | None:
    """Return the rows that become these values under this name; None where that is not to be told."""
    while name != model.graph.input[0].name:
        node = made.get(name)
        if node is None or node.op_type not in _CARRIED:
            return None
        if node.op_type == "Scaler":
            operator = operator_of(node)
            offset, scale = operator.floats("offset"), operator.floats("scale")
            if not (scale != 0).all():
                return None
            values = values / scale + offset
        name = node.input[_CARRIED[node.op_type]]
    return values
