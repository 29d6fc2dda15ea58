"""Forests as gathers: all trees of all rows take a step at a time, from their roots to their leaves.

A step gathers each tree's threshold and feature, compares, and gathers where that leads. The two places
that a node leads to lie beside one another, so that the outcome of the comparison is added to the
first: a step costs three gathers from the tables, one from the row, and no selection. Tables grow with
the number of nodes, never with the depth, and what is held at a time is rows x trees. Places are INT32,
and there is no product of matrices, so that neither TF32 nor quantisation changes an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.importers.standard.forest import Column, Forest
from headrace_engines.importers.standard.graph import FLOAT, INT32, Graph

_MOST_VALUES: Final = 1 << 16
"""Values of leaves that are held at a time for each row: 256 KiB."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """Places: the roots come first, then the pairs that decisions lead to, upper levels before lower ones.

    `node` is what stands at a place; `first` the place of the pair that it leads to, which for a leaf is
    its own place: its comparison never holds, so that it leads to itself.
    """

    node: NDArray[np.int64]
    first: NDArray[np.int32]


def summed(graph: Graph, features: str, forest: Forest) -> str:
    """Return FP32 [rows, targets], the sums over all trees, for FP32 features [rows, features]."""
    targets = forest.values.shape[1]
    grouped = _grouped(forest) if targets > 1 else None
    if grouped is None:
        leaves, tables = _leaves(graph, features, forest)
        return _sums(graph, leaves, forest.values[tables.node], len(forest.roots))
    leaves, tables = _leaves(graph, features, grouped)
    values = graph.add("Gather", grouped.values.sum(axis=1)[tables.node], leaves)
    apart = graph.add("Reshape", values, np.array([0, targets, -1]))
    return graph.reduced("ReduceSum", apart, 2, keepdims=False)


def extreme(graph: Graph, features: str, forest: Forest, kind: str) -> str:
    """Return FP32 [rows, 1], the ReduceMin or ReduceMax over all trees of one target."""
    leaves, tables = _leaves(graph, features, forest)
    values = graph.add("Gather", forest.values[tables.node, 0], leaves)
    return graph.reduced(kind, values, 1)


def _sums(graph: Graph, leaves: str, values: NDArray[np.float32], trees: int) -> str:
    """Return the sums of values [places, targets], of some trees at a time where all would be too many."""
    targets = values.shape[1]
    if targets == 1:
        return graph.reduced("ReduceSum", graph.add("Gather", values[:, 0], leaves), 1)
    table = graph.constant(values, "values")
    some = max(_MOST_VALUES // targets, 1)
    total = ""
    for start in range(0, trees, some):
        part = graph.columns(leaves, np.arange(start, min(start + some, trees))) if some < trees else leaves
        sums = graph.reduced("ReduceSum", graph.add("Gather", table, part), 1, keepdims=False)
        total = graph.add("Add", total, sums) if total else sums
    return total


def _grouped(forest: Forest) -> Forest | None:
    """Return the trees sorted by the only target that each speaks of, equally many for each target.

    Trees of one leaf that says nothing fill up. None if a tree speaks of several targets, or if as many
    trees again were needed.
    """
    targets = forest.values.shape[1]
    node, target = np.nonzero(forest.values)
    spoken = np.unique(np.stack([forest.tree[node], target], axis=1), axis=0)
    owner = np.zeros(len(forest.roots), np.int64)
    owner[spoken[:, 0]] = spoken[:, 1]
    each = int(np.bincount(owner, minlength=targets).max(initial=1))
    if len(np.unique(spoken[:, 0])) < len(spoken) or each * targets > 2 * len(forest.roots):
        return None
    silent = len(forest.feature)
    roots = np.full((targets, each), silent)
    for place in range(targets):
        mine = forest.roots[owner == place]
        roots[place, : len(mine)] = mine
    return replace(
        forest,
        feature=np.append(forest.feature, 0),
        column=np.append(forest.column, 0),
        low=np.append(forest.low, np.float32(-np.inf)),
        high=np.append(forest.high, np.float32(-np.inf)),
        children=np.append(forest.children, [[silent, silent]], axis=0),
        values=np.append(forest.values, np.zeros((1, targets), np.float32), axis=0),
        roots=roots.reshape(-1),
        tree=np.append(forest.tree, 0),
        level=np.append(forest.level, 0),
    )


def _tables(forest: Forest) -> _Tables:
    decides = forest.children[:, 0] != np.arange(len(forest.children))
    deciding = np.flatnonzero(decides)
    deciding = deciding[np.argsort(forest.level[deciding], kind="stable")]
    pair = np.zeros(len(decides), np.int64)
    pair[deciding] = len(forest.roots) + 2 * np.arange(len(deciding))
    node = np.concatenate([forest.roots, forest.children[deciding].reshape(-1)])
    first = np.where(decides[node], pair[node], np.arange(len(node)))
    return _Tables(node, first.astype(np.int32))


def _leaves(graph: Graph, features: str, forest: Forest) -> tuple[str, _Tables]:
    """Return INT32 [rows, trees], the place of the leaf that each row reaches in each tree."""
    tables = _tables(forest)
    features, column = _columns(graph, features, forest)
    node, trees = tables.node, len(forest.roots)
    roots = node[:trees]
    value = graph.columns(features, column[roots])
    outcome = _holds(graph, value, forest.high[roots], _lows(forest, roots))
    place = graph.add("Add", outcome, tables.first[:trees])
    if forest.steps > 1:
        column_table = graph.constant(column[node].astype(np.int32), "columns")
        first_table = graph.constant(tables.first, "places")
        high_table = graph.constant(forest.high[node], "bounds")
        lows = _lows(forest, node)
        low_table = None if lows is None else graph.constant(lows, "low_bounds")
        for _ in range(forest.steps - 1):
            chosen = graph.add("Gather", column_table, place)
            value = graph.add("GatherElements", features, chosen, axis=1)
            high = graph.add("Gather", high_table, place)
            low = None if low_table is None else graph.add("Gather", low_table, place)
            first = graph.add("Gather", first_table, place)
            place = graph.add("Add", _holds(graph, value, high, low), first)
    return place, tables


def _lows(forest: Forest, nodes: NDArray[np.int64]) -> NDArray[np.float32] | None:
    return forest.low[nodes] if np.isfinite(forest.low).any() else None


def _holds(
    graph: Graph, value: str, high: str | NDArray[np.float32], low: str | NDArray[np.float32] | None
) -> str:
    """Return INT32 ones where low <= value < high."""
    below = graph.add("Cast", graph.add("Less", value, high), to=INT32)
    if low is None:
        return below
    return graph.add("Sub", below, graph.add("Cast", graph.add("Less", value, low), to=INT32))


def _columns(graph: Graph, features: str, forest: Forest) -> tuple[str, NDArray[np.int64]]:
    """Return the matrix that the nodes read, and which column of it each reads."""
    if not forest.column.any():
        return features, forest.feature
    used = np.unique(forest.feature)
    place = np.searchsorted(used, forest.feature)
    given = graph.columns(features, used)
    is_missing = graph.add("IsNaN", given)
    least = graph.add("Where", is_missing, np.float32(-np.inf), given)
    flags = graph.add("Cast", is_missing, to=FLOAT)
    blocks = {Column.GIVEN: given, Column.MISSING_IS_LEAST: least, Column.IS_MISSING: flags}
    features = graph.add("Concat", *blocks.values(), axis=1)
    return features, forest.column * len(used) + place
