"""Trees of PMML as one operator of the machine-learning domain, which adds up what their leaves say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from headrace_engines.importers.pmml_branches import Branch, Branches, branches
from headrace_engines.importers.pmml_document import Leaf, Tree
from headrace_engines.importers.standard.graph import ML_DOMAIN, Graph


@dataclass(frozen=True, slots=True)
class Grown:
    """A tree with two ways at each node.

    Of its leaves, in their order: the `values` [leaves, targets], and the `labels` [leaves].
    """

    nodes: Branches
    values: NDArray[np.float64]
    labels: NDArray[np.int64]


def grown(tree: Tree, columns: Mapping[str, int]) -> Grown:
    """Return a tree whose fields have these places."""
    found = branches(tree, columns)
    leaves = [node for node in found if isinstance(node, Leaf)]
    values = np.array([leaf.values for leaf in leaves], np.float64)
    return Grown(found, values, np.array([leaf.label for leaf in leaves], np.int64))


def summed(graph: Graph, features: str, trees: Sequence[Grown]) -> str:
    """Return the sum [rows, targets] of the values that the trees have for each row of features."""
    output = graph.name("trees")
    told = [_attributes(tree, place) for place, tree in enumerate(trees)]
    attributes = {name: np.concatenate([each[name] for each in told]).tolist() for name in told[0]}
    width = trees[0].values.shape[1]
    graph.nodes.append(
        helper.make_node(
            "TreeEnsembleRegressor", [features], [output], output, domain=ML_DOMAIN, n_targets=width,
            **attributes,
        )
    )  # fmt: skip
    return output


def _attributes(tree: Grown, number: int) -> dict[str, NDArray[Any]]:
    """Return the operator's lists, as far as they are about one tree."""
    count, width = len(tree.nodes), tree.values.shape[1]
    end = Branch(0, 0.0, 0, 0)
    asked = [node if isinstance(node, Branch) else end for node in tree.nodes]
    leaves = [place for place, node in enumerate(tree.nodes) if isinstance(node, Leaf)]
    modes = ["LEAF" if isinstance(node, Leaf) else "BRANCH_LEQ" for node in tree.nodes]
    return {
        "nodes_treeids": np.full(count, number),
        "nodes_nodeids": np.arange(count),
        "nodes_modes": np.array(modes, object),
        "nodes_featureids": np.array([node.column for node in asked]),
        "nodes_values": np.array([node.bound for node in asked]),
        "nodes_truenodeids": np.array([node.when_true for node in asked]),
        "nodes_falsenodeids": np.array([node.when_false for node in asked]),
        "nodes_missing_value_tracks_true": np.zeros(count, np.int64),
        "target_treeids": np.full(len(leaves) * width, number),
        "target_nodeids": np.repeat(leaves, width),
        "target_ids": np.tile(np.arange(width), len(leaves)),
        "target_weights": tree.values.reshape(-1),
    }
