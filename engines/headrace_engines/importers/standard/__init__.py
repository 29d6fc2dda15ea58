"""Rewrites operators of the machine-learning domain into ONNX's own, which TensorRT's parser takes.

Models of classical machine learning come in operators of `ai.onnx.ml` (LinearClassifier, Scaler,
TreeEnsembleRegressor, ...) that only ONNX Runtime on a CPU executes. Each has a rewrite here that gives
the same answers; the modules are named after the families. What has no rewrite (text, most of all)
stays, and a model with such operators runs on a CPU alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import onnx
from onnx import helper, version_converter

from headrace_engines.importers.standard import encoding, linear, scaling, svm, trees
from headrace_engines.importers.standard.graph import (
    FLOAT,
    ML_DOMAIN,
    STRING,
    Graph,
    Operator,
    Unsuited,
    operator_of,
)
from headrace_engines.importers.standard.tidy import STANDARD, subgraphs, tensors, tidy

_OLDEST_OPSET: Final = 13
"""The first in which the rewrites' operators have the form that they are written in."""
_OPSET: Final = 17

_REWRITES: Final[Mapping[str, Callable[[Graph, Operator], None]]] = MappingProxyType(
    {
        "ArrayFeatureExtractor": encoding.array_feature_extractor,
        "Binarizer": scaling.binarizer,
        "FeatureVectorizer": encoding.feature_vectorizer,
        "Imputer": scaling.imputer,
        "LabelEncoder": encoding.label_encoder,
        "LinearClassifier": linear.classifier,
        "LinearRegressor": linear.regressor,
        "Normalizer": scaling.normalizer,
        "OneHotEncoder": encoding.one_hot_encoder,
        "SVMClassifier": svm.classifier,
        "SVMRegressor": svm.regressor,
        "Scaler": scaling.scaler,
        "TreeEnsemble": trees.ensemble,
        "TreeEnsembleClassifier": trees.classifier,
        "TreeEnsembleRegressor": trees.regressor,
        "ZipMap": encoding.zip_map,
    }
)

_TREES: Final = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_MACHINES: Final = frozenset({"SVMClassifier", "SVMRegressor"})


@dataclass(frozen=True, slots=True)
class Standardised:
    """A model in ONNX's own domain but for what is `left`.

    `left` names, sorted, the operators of other domains that remain and whatever has strings: a model
    with any runs on a CPU alone.
    """

    model: onnx.ModelProto
    left: tuple[str, ...]


def is_native(node: onnx.NodeProto) -> bool:
    """Whether a CPU executes an operator faster as it is than what it is rewritten into."""
    if node.domain != ML_DOMAIN:
        return False
    return node.op_type in _TREES or (node.op_type in _MACHINES and svm.is_wide(operator_of(node)))


def standardise(model: onnx.ModelProto, *, for_cpu: bool = False) -> Standardised:
    """Return the model with every operator of the machine-learning domain rewritten that can be.

    For a CPU, those stay as they are that it executes faster so. Inputs and outputs keep their names; what
    was a list of dictionaries (ZipMap) becomes FP32 [rows, classes]. The model that is given is left alone.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if not any(opset.domain in STANDARD for opset in result.opset_import):
        result.opset_import.append(helper.make_opsetid("", _OPSET))
    if any(opset.domain in STANDARD and opset.version < _OLDEST_OPSET for opset in model.opset_import):
        result = version_converter.convert_version(result, _OPSET)
    _drop_maps(result)
    while _rewrite(result, for_cpu=for_cpu):
        pass  # what was rewritten tells the types of what comes behind it
    tidy(result)
    return Standardised(result, tuple(sorted(set(_left(result)))))


def _rewrite(model: onnx.ModelProto, *, for_cpu: bool) -> bool:
    """Rewrite what can be; return whether anything was, and something is left to try again."""
    graph = model.graph
    known = tensors(model)
    opset = max((each.version for each in model.opset_import if each.domain in STANDARD), default=_OPSET)
    taken = {*known, *(name for node in graph.node for name in (*node.input, *node.output, node.name))}
    made = Graph(taken, known, opset)
    nodes: list[onnx.NodeProto] = []
    has_changed = is_left = False
    for node in graph.node:
        new = [node]
        if node.domain == ML_DOMAIN and not (for_cpu and is_native(node)):
            new = _rewritten(made, node)
            has_changed |= new != [node]
            is_left |= new == [node]
        nodes.extend(new)
    if has_changed:
        nodes = [*nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(made.constants)
    return has_changed and is_left


def _rewritten(made: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes in the place of one; that one alone where it has no rewrite."""
    rewrite = _REWRITES.get(node.op_type)
    constants = len(made.constants)
    made.nodes = []
    if rewrite is None:
        return [node]
    try:
        rewrite(made, operator_of(node))
    except Unsuited:
        del made.constants[constants:]
        return [node]
    return made.nodes


def _drop_maps(model: onnx.ModelProto) -> None:
    """Declare the outputs of ZipMap as the matrices that they are made of."""
    for node in model.graph.node:
        if node.domain == ML_DOMAIN and node.op_type == "ZipMap":
            operator = operator_of(node)
            classes = (
                operator.attributes.get("classlabels_int64s") or operator.attributes["classlabels_strings"]
            )
            for output in model.graph.output:
                if output.name == node.output[0]:
                    output.CopyFrom(
                        helper.make_tensor_value_info(output.name, FLOAT, ["batch", len(classes)])
                    )


def _left(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    inner = [node for inside in subgraphs(graph.node) for node in inside.node]
    known = tensors(model)
    for node in (*graph.node, *inner):
        if node.domain not in STANDARD:
            yield f"{node.domain}.{node.op_type}"
        elif any(known[name].element_type == STRING for name in (*node.input, *node.output) if name in known):
            yield f"{node.op_type} of strings"
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == STRING:
            yield f"{value.name} of strings"
