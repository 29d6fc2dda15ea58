"""Categories and columns: OneHotEncoder, LabelEncoder, ArrayFeatureExtractor, FeatureVectorizer, ZipMap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.importers.standard.graph import FLOAT, INT32, INT64, STRING, Graph, Operator, Unsuited
from headrace_engines.importers.standard.scores import flags

_TABLES: dict[int, type] = {FLOAT: np.float32, INT32: np.int32, INT64: np.int64}


def one_hot_encoder(graph: Graph, operator: Operator) -> None:
    """OneHotEncoder: [..., categories] of ones and zeros; a category that is unknown has zeros alone.

    So it is also where the operator would fail: one row is no reason to fail those beside it.
    """
    if operator.attributes.get("cats_strings") or graph.tensor(operator.inputs[0]).element_type == STRING:
        raise Unsuited("strings")
    value = graph.add("Cast", operator.inputs[0], to=INT64)
    is_category = graph.add(
        "Equal",
        graph.add("Unsqueeze", value, np.array([-1])),
        operator.integers("cats_int64s"),
    )
    graph.give(flags(graph, is_category), operator.outputs[0])


def label_encoder(graph: Graph, operator: Operator) -> None:
    """LabelEncoder between numbers: keys are looked up by comparing, which costs rows x keys."""
    keys, values = _table(operator, "keys"), _table(operator, "values")
    default = values.dtype.type(_default(operator, values))
    value = graph.add("Unsqueeze", operator.inputs[0], np.array([-1]))
    matches = graph.add("Equal", value, keys)
    if keys.dtype == np.float32 and np.isnan(keys).any():
        both = graph.add("And", graph.add("IsNaN", value), np.isnan(keys))
        matches = graph.add("Or", matches, both)
    is_known = flags(graph, matches)
    place = graph.add("ArgMax", is_known, axis=-1, keepdims=0)
    found = graph.add("Gather", values, place, axis=0)
    any_known = graph.reduced("ReduceMax", is_known, -1, keepdims=False)
    known = graph.add("Greater", any_known, np.float32(0))
    graph.give(graph.add("Where", known, found, default), operator.outputs[0])


def _table(operator: Operator, side: str) -> NDArray[Any]:
    for name, dtype in ((f"{side}_int64s", np.int64), (f"{side}_floats", np.float32)):
        if name in operator.attributes:
            return np.array(operator.attributes[name], dtype)
    tensor = operator.attributes.get(f"{side}_tensor")
    if isinstance(tensor, np.ndarray) and tensor.dtype in (np.float32, np.int64, np.int32):
        return tensor.reshape(-1)
    raise Unsuited("strings")


def _default(operator: Operator, values: NDArray[Any]) -> float:
    if "default_tensor" in operator.attributes:
        return float(np.asarray(operator.attributes["default_tensor"]).reshape(-1)[0])
    if values.dtype == np.float32:
        return float(operator.attributes.get("default_float", -0.0))
    return int(operator.attributes.get("default_int64", -1))


def array_feature_extractor(graph: Graph, operator: Operator) -> None:
    """ArrayFeatureExtractor: columns of the last axis; a vector is taken for a matrix of one row."""
    array, places = operator.inputs
    rank = graph.tensor(array).rank
    if rank is None or graph.tensor(array).element_type == 0:
        raise Unsuited("a rank that is not known")
    chosen = graph.add("Gather", array, graph.flat(places), axis=-1)
    graph.give(
        graph.add("Unsqueeze", chosen, np.array([0])) if rank == 1 else chosen,
        operator.outputs[0],
    )


def feature_vectorizer(graph: Graph, operator: Operator) -> None:
    """FeatureVectorizer: the columns of all inputs beside one another, as FP32."""
    inputs = [graph.floats(name) for name in operator.inputs]
    graph.give(graph.add("Concat", *inputs, axis=-1), operator.outputs[0])


def zip_map(graph: Graph, operator: Operator) -> None:
    """ZipMap: probabilities stay a matrix, as engines give tensors and no dictionaries."""
    graph.give(operator.inputs[0], operator.outputs[0])
