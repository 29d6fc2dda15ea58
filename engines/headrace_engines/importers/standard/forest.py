"""Trees as arrays: what the three operators that hold them have in common.

Every decision becomes `low <= x < high`, so that one comparison serves all the modes that a node may
have. Features are FP32, so a threshold of any precision is rounded to the FP32 bound that divides FP32
numbers in the same way. What is missing (NaN) fulfils no comparison; a node that sends it to where the
decision holds reads a column in which it is minus infinity, and a node that divides what is missing
from all else reads a column of ones where something is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.importers.standard.graph import Operator, Unsuited

_SMALLEST: Final = np.finfo(np.float32).tiny
_MODES: Final = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "LEAF")
_MOST_STEPS: Final = 4096


class Column(IntEnum):
    """Which of a feature's columns a node reads."""

    GIVEN = 0
    MISSING_IS_LEAST = 1
    IS_MISSING = 2


@dataclass(frozen=True, slots=True)
class Forest:
    """Decisions and leaves of all trees, one row for each node.

    A node leads to `children[node, 1]` where `low <= x < high` holds for its feature's column, else to
    `children[node, 0]`; a leaf leads to itself, and its row of `values` [nodes, targets] is what the
    tree says. `low` is minus infinity but for nodes that ask for equality. `roots` are where the trees
    begin; `tree` and `level` say of each node to which of them it belongs and how far it is from its root.
    """

    feature: NDArray[np.int64]
    column: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    children: NDArray[np.int64]
    values: NDArray[np.float32]
    roots: NDArray[np.int64]
    tree: NDArray[np.int64]
    level: NDArray[np.int64]

    @property
    def steps(self) -> int:
        """The most decisions on any way."""
        return int(self.level.max(initial=0))


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes as an operator lists them.

    `kind` is the place of the mode's name in the operators' list of modes, `threshold` FP32 or FP64,
    `when_true` and `when_false` the places of the children, `missing_is_true` where NaN goes.
    """

    kind: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[Any]
    when_true: NDArray[np.int64]
    when_false: NDArray[np.int64]
    missing_is_true: NDArray[np.bool_]
    roots: NDArray[np.int64]


LEAF: Final = _MODES.index("LEAF")
_LEQ, _LT, _GTE, _GT, _EQ, _NEQ = range(6)


def listed(operator: Operator) -> Nodes:
    """Return the nodes of a TreeEnsembleRegressor or TreeEnsembleClassifier."""
    modes = operator.attributes.get("nodes_modes", ())
    unknown = set(modes) - set(_MODES)
    if unknown:
        raise Unsuited(f"nodes of mode {min(unknown)}")
    kind = np.array([_MODES.index(mode) for mode in modes], np.int64)
    trees, nodes = operator.integers("nodes_treeids"), operator.integers("nodes_nodeids")
    missing = operator.integers("nodes_missing_value_tracks_true")
    _, roots = np.unique(trees, return_index=True)

    def children(name: str) -> NDArray[np.int64]:
        return np.where(
            kind == LEAF, 0, places(operator, trees, np.where(kind == LEAF, nodes, operator.integers(name)))
        )

    return Nodes(
        kind=kind,
        feature=operator.integers("nodes_featureids"),
        threshold=numbers(operator, "nodes_values"),
        when_true=children("nodes_truenodeids"),
        when_false=children("nodes_falsenodeids"),
        missing_is_true=missing.astype(bool) if missing.size else np.zeros(len(kind), bool),
        roots=roots.astype(np.int64),
    )


def numbers(operator: Operator, name: str) -> NDArray[Any]:
    """Return an attribute that is a list of FP32 or, under a name of its own, a tensor of FP32 or FP64."""
    tensor = operator.attributes.get(f"{name}_as_tensor")
    return operator.floats(name) if tensor is None else np.asarray(tensor).reshape(-1)


def places(operator: Operator, trees: NDArray[np.int64], nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the operator lists the nodes that are named by tree and number."""
    listed_trees = operator.integers("nodes_treeids")
    listed_nodes = operator.integers("nodes_nodeids")
    stride = int(max(listed_nodes.max(initial=0), nodes.max(initial=0))) + 1
    keys = listed_trees * stride + listed_nodes
    order = np.argsort(keys, kind="stable")
    wanted = trees * stride + nodes
    found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    if not np.array_equal(keys[found], wanted):
        raise Unsuited("nodes that lead to none")
    return found.astype(np.int64)


def forest(nodes: Nodes, values: NDArray[np.float32]) -> Forest:
    """Return the trees with their decisions in one form; `values` [nodes, targets] are the leaves'."""
    _check_bounds(nodes)
    nodes, values = _with_missing_apart(nodes, values)
    is_leaf = nodes.kind == LEAF
    is_equality = (nodes.kind == _EQ) | (nodes.kind == _NEQ)
    is_turned = np.isin(nodes.kind, (_GTE, _GT, _NEQ))
    is_closed = np.isin(nodes.kind, (_LEQ, _GT, _EQ, _NEQ))
    high = np.where(is_closed, _above(nodes.threshold), _not_below(nodes.threshold))
    low = np.where(is_equality, _not_below(nodes.threshold), -np.inf)
    holds_for_missing = np.where(is_turned, ~nodes.missing_is_true, nodes.missing_is_true) & ~is_equality
    is_any = is_closed & ~is_equality & np.isposinf(nodes.threshold) & ~is_leaf
    column = np.where(holds_for_missing & ~is_leaf, Column.MISSING_IS_LEAST, Column.GIVEN)
    column = np.where(is_any | (nodes.kind == _MISSING), Column.IS_MISSING, column)
    high = np.where(is_any, np.where(holds_for_missing, 2, 0.5), high)
    itself = np.arange(len(is_leaf))
    children = np.where(
        is_turned[:, None],
        np.stack([nodes.when_true, nodes.when_false], axis=1),
        np.stack([nodes.when_false, nodes.when_true], axis=1),
    )
    children = np.where(is_leaf[:, None], itself[:, None], children)
    tree, level = _explored(children, is_leaf, nodes.roots)
    return Forest(
        feature=np.where(is_leaf, 0, nodes.feature),
        column=column.astype(np.int64),
        low=np.where(is_leaf, -np.inf, low).astype(np.float32),
        high=np.where(is_leaf, -np.inf, high).astype(np.float32),
        children=children.astype(np.int64),
        values=np.where(is_leaf[:, None], values, 0).astype(np.float32),
        roots=nodes.roots,
        tree=tree,
        level=level,
    )


_MISSING: Final = len(_MODES)
"""The kind of a node that is put before one that asks for equality and to which NaN is equal."""


def _with_missing_apart(nodes: Nodes, values: NDArray[np.float32]) -> tuple[Nodes, NDArray[np.float32]]:
    """Return the nodes such that none asks for equality and takes what is missing for equal."""
    special = np.flatnonzero((nodes.kind == _EQ) & nodes.missing_is_true)
    if not special.size:
        return nodes, values
    moved = len(nodes.kind) + np.arange(len(special))

    def extended(array: NDArray[Any], first: Any) -> NDArray[Any]:
        longer = np.concatenate([array, array[special]])
        longer[special] = first
        return longer

    missing = np.concatenate([nodes.missing_is_true, np.zeros(len(special), bool)])
    missing[special] = False
    return (
        Nodes(
            kind=extended(nodes.kind, _MISSING),
            feature=extended(nodes.feature, nodes.feature[special]),
            threshold=extended(nodes.threshold, 0.5),
            when_true=extended(nodes.when_true, moved),
            when_false=extended(nodes.when_false, nodes.when_true[special]),
            missing_is_true=missing,
            roots=nodes.roots,
        ),
        np.concatenate([values, values[special]]),
    )


def _check_bounds(nodes: Nodes) -> None:
    """Raise Unsuited for bounds that `low <= x < high` does not tell: nothing lies above infinity."""
    bounds, kind = nodes.threshold, nodes.kind
    is_equality = (kind == _EQ) | (kind == _NEQ)
    is_subnormal = (np.abs(bounds) < _SMALLEST) & (bounds != 0)
    untold = np.isnan(bounds) | (is_equality & (np.isposinf(bounds) | is_subnormal))
    untold |= np.isin(kind, (_LT, _GTE)) & np.isneginf(bounds)
    if (untold & (kind != LEAF)).any():
        raise Unsuited("a bound that is NaN, or infinite where that is asked for")


def _above(thresholds: NDArray[Any]) -> NDArray[np.float32]:
    """Return the smallest FP32 that is greater: x <= threshold is x < this for each FP32 x."""
    rounded = thresholds.astype(np.float32)
    return _normal(np.where(rounded <= thresholds, np.nextafter(rounded, np.float32(np.inf)), rounded))


def _not_below(thresholds: NDArray[Any]) -> NDArray[np.float32]:
    """Return the smallest FP32 that is not smaller: x < threshold is x < this for each FP32 x."""
    rounded = thresholds.astype(np.float32)
    return _normal(np.where(rounded < thresholds, np.nextafter(rounded, np.float32(np.inf)), rounded))


def _normal(bounds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return bounds that a device which takes subnormal numbers for zero understands in the same way."""
    is_subnormal = (np.abs(bounds) < _SMALLEST) & (bounds != 0)
    return np.where(is_subnormal, np.where(bounds > 0, _SMALLEST, np.float32(0)), bounds)


def _explored(
    children: NDArray[np.int64], is_leaf: NDArray[np.bool_], roots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each node's tree and its greatest distance from the root; a node that several lead to is one."""
    tree, level = np.zeros(len(is_leaf), np.int64), np.zeros(len(is_leaf), np.int64)
    tree[roots] = np.arange(len(roots))
    reached, steps = roots, 0
    while (reached := reached[~is_leaf[reached]]).size:
        steps += 1
        if steps > _MOST_STEPS:
            raise Unsuited("trees that are too deep, or lead back to where they came from")
        tree[children[reached]] = tree[reached][:, None]
        reached = np.unique(children[reached])
        level[reached] = steps
    return tree, level
