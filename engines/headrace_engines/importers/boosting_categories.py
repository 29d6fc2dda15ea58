"""Categories of boosted trees: the libraries cut off what is behind a point, and trees in ONNX do not.

A decision by categories is written as questions for equality, so that what these ask is made whole before:
LightGBM cuts towards zero, XGBoost takes what is below zero for no category at all.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

_ENSEMBLES: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_EQUALITY: Final = (b"BRANCH_EQ", b"BRANCH_NEQ")


def make_whole(
    nodes: MutableSequence[onnx.NodeProto],
    constants: MutableSequence[onnx.TensorProto],
    features: int,
    *,
    towards_zero: bool,
    start: int = 0,
) -> None:
    """Put before the trees among `nodes`, from `start` on, what makes their categories whole numbers.

    `features` is how many columns the trees are given; missing and infinite values stay what they are.
    """
    for tree in [node for node in nodes[start:] if node.op_type in _ENSEMBLES]:
        attributes = {attribute.name: attribute for attribute in tree.attribute}
        asked = zip(attributes["nodes_modes"].strings, attributes["nodes_featureids"].ints, strict=True)
        categories = sorted({feature for mode, feature in asked if mode in _EQUALITY})
        if not categories:
            continue
        is_category = np.zeros((1, features), bool)
        is_category[0, categories] = True
        given, name = tree.input[0], f"{tree.output[0]}_categories"
        constants.append(numpy_helper.from_array(is_category, f"{name}_places"))
        tree.input[0] = name
        place = list(nodes).index(tree)
        for node in reversed(_cut(given, name, towards_zero=towards_zero)):
            nodes.insert(place, node)


def _cut(given: str, name: str, *, towards_zero: bool) -> list[onnx.NodeProto]:
    whole = helper.make_node("Floor", [given], [f"{name}_whole"])
    nodes = [whole]
    if towards_zero:
        magnitude = helper.make_node("Abs", [given], [f"{name}_magnitude"])
        sign = helper.make_node("Sign", [given], [f"{name}_sign"])
        floor = helper.make_node("Floor", [magnitude.output[0]], [f"{name}_floor"])
        signed = helper.make_node("Mul", [sign.output[0], floor.output[0]], [whole.output[0]])
        nodes = [magnitude, sign, floor, signed]
    chosen = helper.make_node("Where", [f"{name}_places", whole.output[0], given], [name])
    return [*nodes, chosen]
