from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from headrace_engines.importers.pmml_branches import Branch, branches, largest_at_most, largest_below
from headrace_engines.importers.pmml_document import (
    COMPARISONS,
    Always,
    Comparison,
    Compound,
    Document,
    Leaf,
    Membership,
    Model,
    Node,
    Predicate,
    Tree,
)
from headrace_engines.importers.pmml_values import answer

_FIELDS = ("a", "b", "c")
_NUMBERS = (0.0, 0.1, 0.5, 1 / 3, 1.0, -0.25)
_VALUES = np.float32([0, 0.1, 0.5, 1 / 3, np.nextafter(np.float32(1 / 3), np.float32(1)), 1, -0.25, 7, -7])
_FLOATS = some.floats(allow_nan=False, allow_infinity=False, min_value=-3e38, max_value=3e38)

_SIMPLE = some.one_of(
    some.builds(
        Comparison, some.sampled_from(_FIELDS), some.sampled_from(COMPARISONS), some.sampled_from(_NUMBERS)
    ),
    some.builds(
        Membership,
        some.sampled_from(_FIELDS),
        some.lists(some.sampled_from(_NUMBERS), min_size=1, max_size=3).map(tuple),
        some.booleans(),
    ),
    some.builds(Always, some.booleans()),
)
_PREDICATES: some.SearchStrategy[Predicate] = some.recursive(
    _SIMPLE,
    lambda inner: some.builds(
        Compound, some.booleans(), some.lists(inner, min_size=1, max_size=3).map(tuple)
    ),
    max_leaves=4,
)
_LEAVES = some.integers(-9, 9).map(lambda value: Leaf((float(value),), 0))
_NODES: some.SearchStrategy[Node] = some.recursive(
    some.builds(Node, _PREDICATES, _LEAVES, some.just(())),
    lambda inner: some.builds(Node, _PREDICATES, _LEAVES, some.lists(inner, max_size=3).map(tuple)),
    max_leaves=6,
)


@given(_FLOATS)
def test_bounds_are_the_nearest_single_precision_numbers(value: float) -> None:
    at_most, below = largest_at_most(value), largest_below(value)
    assert at_most <= value
    assert below < value
    for bound, reaches in ((at_most, np.less_equal), (below, np.less)):
        assert bound == float(np.float32(bound))
        assert not reaches(float(np.nextafter(np.float32(bound), np.float32(np.inf))), value)


@given(
    some.lists(_NODES, max_size=3),
    some.lists(some.tuples(*[some.sampled_from(_VALUES)] * 3), min_size=1, max_size=8),
)
def test_two_ways_lead_where_many_children_do(children: list[Node], rows: list[tuple[float, ...]]) -> None:
    tree = Tree(Node(Always(is_true=True), Leaf((0.0,), 0), tuple(children)), falls_back=True)
    document = Document("4.4", "TreeModel", _FIELDS, "y", (), Model(tree, 0, (), 1.0, 0.0))
    expected = answer(document, np.array(rows, np.float32)).values[:, 0]
    found = branches(tree, {name: place for place, name in enumerate(_FIELDS)})
    for row, value in zip(rows, expected, strict=True):
        node = found[0]
        while isinstance(node, Branch):
            node = found[node.when_true if row[node.column] <= node.bound else node.when_false]
        assert node.values == (value,)


def test_what_the_way_tells_is_not_asked_again() -> None:
    ways = [("lessOrEqual", 0.5), ("greaterThan", 0.5)]
    leaves = tuple(Node(Comparison("a", name, value), Leaf((value,), 0), ()) for name, value in ways)
    found = branches(Tree(Node(Always(is_true=True), None, leaves), falls_back=False), {"a": 0})
    assert [type(node) for node in found] == [Branch, Leaf, Leaf]
