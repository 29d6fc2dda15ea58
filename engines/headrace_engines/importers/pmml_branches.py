"""Trees of PMML as trees with two ways at each node, all of which ask whether a number is at most another.

A node of PMML has any number of children, each with a predicate of its own, of which the first that holds is
gone to. Here every predicate becomes such questions about FP32 numbers, each with the answer that FP64 gives.
On the way down it is known between which bounds each field lies: what these decide is not asked again, so
that of `x <= 1` and `x > 1` one question is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.pmml_document import (
    Always,
    Comparison,
    Compound,
    Leaf,
    Membership,
    Node,
    Predicate,
    Tree,
)

_MOST_NODES: Final = 1_000_000
_BELOW: Final = np.float32(-np.inf)
_ANYWHERE: Final = (-math.inf, math.inf)
_UNTOLD: Final = Leaf((), 0)
"""Keeps the place of a node until it is known where its ways lead."""


@dataclass(frozen=True, slots=True)
class _AtMost:
    """Whether a column is at most an FP32 number."""

    column: int
    bound: float


@dataclass(frozen=True, slots=True)
class _Either:
    """Whether all the parts hold, or any of them; `turned` says that it must not be so."""

    needs_all: bool
    parts: tuple[_Question, ...]


@dataclass(frozen=True, slots=True)
class _Not:
    part: _AtMost


_Question = _AtMost | _Either | _Not | Always


@dataclass(frozen=True, slots=True)
class Branch:
    """Where to go: to `when_true` if the column is at most the bound, else to `when_false`."""

    column: int
    bound: float
    when_true: int
    when_false: int


Branches = Sequence[Branch | Leaf]
"""A tree as a list of nodes, of which the first is the root."""

_Bounds = Mapping[int, tuple[float, float]]
"""For each column what it is above, and what it is at most."""

_Way = Callable[[_Bounds], int]
"""Places what comes next, where these bounds hold, and returns where that is."""


def branches(tree: Tree, columns: Mapping[str, int]) -> Branches:
    """Return a tree with two ways at each node; `columns` are the places of its fields.

    Raises UnsupportedModelError if the tree has no answer for some row, or becomes too large.
    """
    found = _Divided(tree, columns)
    found.down(tree.root, 0, {})
    return found.nodes


class _Divided:
    """A tree that is being divided, from its root downwards."""

    def __init__(self, tree: Tree, columns: Mapping[str, int]) -> None:
        self.nodes: list[Branch | Leaf] = []
        self._tree = tree
        self._columns = columns

    def down(self, node: Node, first: int, bounds: _Bounds) -> int:
        """Place what remains of a node once its children before `first` do not hold."""
        if first == len(node.children):
            return self._end(node)
        child = node.children[first]
        return self._ask(
            _question(child.predicate, self._columns),
            bounds,
            lambda now: self.down(child, 0, now),
            lambda now: self.down(node, first + 1, now),
        )

    def _ask(self, question: _Question, bounds: _Bounds, when_true: _Way, when_false: _Way) -> int:
        match question:
            case Always(is_true):
                return when_true(bounds) if is_true else when_false(bounds)
            case _Not(part):
                return self._ask(part, bounds, when_false, when_true)
            case _AtMost():
                return self._divide(question, bounds, when_true, when_false)
            case _Either(needs_all, parts):
                if not parts:
                    return when_true(bounds) if needs_all else when_false(bounds)
                rest = _Either(needs_all, parts[1:])

                def go_on(now: _Bounds) -> int:
                    return self._ask(rest, now, when_true, when_false)

                ways = (go_on, when_false) if needs_all else (when_true, go_on)
                return self._ask(parts[0], bounds, *ways)

    def _divide(self, question: _AtMost, bounds: _Bounds, when_true: _Way, when_false: _Way) -> int:
        column, bound = question.column, question.bound
        low, high = bounds.get(column, _ANYWHERE)
        if column in bounds and high <= bound:
            return when_true(bounds)
        if column in bounds and low >= bound:
            return when_false(bounds)
        place = self._place(_UNTOLD)
        below = when_true({**bounds, column: (low, bound)})
        above = when_false({**bounds, column: (bound, high)})
        self.nodes[place] = Branch(column, bound, below, above)
        return place

    def _end(self, node: Node) -> int:
        if node.leaf is None or (node.children and not self._tree.falls_back):
            raise UnsupportedModelError(
                "some rows end at a node none of whose children is for them, and the tree has no answer "
                "then: give its last child <True/>, or write noTrueChildStrategy=returnLastPrediction"
            )
        return self._place(node.leaf)

    def _place(self, node: Leaf) -> int:
        if len(self.nodes) == _MOST_NODES:
            raise UnsupportedModelError(f"a tree of more than {_MOST_NODES} nodes: train a smaller one")
        self.nodes.append(node)
        return len(self.nodes) - 1


def _question(predicate: Predicate, columns: Mapping[str, int]) -> _Question:
    match predicate:
        case Always():
            return predicate
        case Compound(needs_all, parts):
            return _Either(needs_all, tuple(_question(part, columns) for part in parts))
        case Membership(name, values, is_in):
            equal = [_comparison(columns[name], "equal" if is_in else "notEqual", value) for value in values]
            return _Either(not is_in, tuple(equal))
        case Comparison(name, operator, value):
            return _comparison(columns[name], operator, value)


def _comparison(column: int, operator: str, value: float) -> _Question:
    """Return a comparison of an FP32 number with one in FP64, as it comes out in FP64."""
    at_most = _AtMost(column, largest_at_most(value))
    less = _AtMost(column, largest_below(value))
    match operator:
        case "lessOrEqual":
            return at_most
        case "greaterThan":
            return _Not(at_most)
        case "lessThan":
            return less
        case "greaterOrEqual":
            return _Not(less)
        case "equal":
            return _Either(needs_all=True, parts=(at_most, _Not(less)))
        case _:
            return _Either(needs_all=False, parts=(_Not(at_most), less))


def largest_at_most(value: float) -> float:
    """Return the largest FP32 number that is not above a number."""
    with np.errstate(over="ignore"):
        near = np.float32(value)
    return float(near) if float(near) <= value else float(np.nextafter(near, _BELOW))


def largest_below(value: float) -> float:
    """Return the largest FP32 number that is below a number."""
    near = np.float32(largest_at_most(value))
    return float(near) if float(near) < value else float(np.nextafter(near, _BELOW))
