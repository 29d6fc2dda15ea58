"""Made-up trees as attributes of the operators that hold trees, and rows that lie on their thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = 3
GRID = np.float32([-1.5, -1, 0, 0.1, 1, 2.5])


_NODE_ATTRIBUTES = (
    "treeids",
    "nodeids",
    "featureids",
    "modes",
    "values",
    "truenodeids",
    "falsenodeids",
    "missing_value_tracks_true",
)


def tree_attributes(
    random: np.random.Generator,
    *,
    trees: int,
    depth: int,
    targets: int,
    modes: Sequence[str] = ("BRANCH_LEQ",),
    side: str = "target",
    tracks_missing: bool = False,
    own_target: bool = False,
) -> dict[str, Any]:
    """Attributes of a TreeEnsemble operator whose thresholds lie on the grid.

    Leaves speak of all targets, or each tree of its `own_target` alone.
    """
    nodes: dict[str, list[Any]] = {name: [] for name in _NODE_ATTRIBUTES}
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree: int, node: int, level: int) -> int:
        """Add a node and all below it; returns the next free number."""
        is_leaf = level == depth or (level > 0 and random.random() < 0.2)
        row = len(nodes["modes"])
        values = (
            tree,
            node,
            int(random.integers(FEATURES)),
            "LEAF" if is_leaf else str(random.choice(modes)),
            float(random.choice(GRID)),
            0,
            0,
            int(tracks_missing and random.random() < 0.5),
        )
        for column, value in zip(nodes.values(), values, strict=True):
            column.append(value)
        if is_leaf:
            for target in [tree % targets] if own_target else range(targets):
                weight = float(np.float32(random.normal()))
                for name, value in zip(leaves, (tree, node, target, weight), strict=True):
                    leaves[name].append(value)
            return node + 1
        nodes["truenodeids"][row] = node + 1
        nodes["falsenodeids"][row] = grow(tree, node + 1, level + 1)
        return grow(tree, nodes["falsenodeids"][row], level + 1)

    for tree in range(trees):
        grow(tree, 0, 0)
    return {
        **{f"nodes_{name}": values for name, values in nodes.items()},
        **{f"{side}_{name}": values for name, values in leaves.items()},
    }


def rows_on_thresholds(
    random: np.random.Generator, rows: int, *, has_missing: bool = False
) -> NDArray[np.float32]:
    """Rows of values on the grid, right beside it, at infinity and, where asked for, missing."""
    beside = [GRID, np.nextafter(GRID, np.float32(-9)), np.nextafter(GRID, np.float32(9))]
    values = np.concatenate([*beside, np.float32([-np.inf, np.inf, -0.0, 3e38, -3e38])])
    values = values[(np.abs(values) >= np.finfo(np.float32).tiny) | (values == 0)]
    chosen = random.choice(values, size=(rows, FEATURES))
    return np.where(random.random(chosen.shape) < 0.2, np.float32(np.nan), chosen) if has_missing else chosen
