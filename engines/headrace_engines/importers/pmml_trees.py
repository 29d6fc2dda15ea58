"""TreeModel as PMML writes it: predicates, scores and their distributions."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.pmml_document import (
    COMPARISONS,
    Always,
    Comparison,
    Compound,
    Leaf,
    Membership,
    Node,
    Predicate,
    Tree,
)
from headrace_engines.importers.pmml_domains import constant
from headrace_engines.importers.pmml_fields import Classes, field_name
from headrace_engines.importers.pmml_xml import Element

PREDICATES: Final = ("SimplePredicate", "SimpleSetPredicate", "CompoundPredicate", "True", "False")
_PARTS: Final = ("MiningSchema", "Output", "LocalTransformations", "Targets", "Node")
_MISSING: Final = {"isMissing": False, "isNotMissing": True}
_FALLS_BACK: Final = {"returnNullPrediction": False, "returnLastPrediction": True}


def tree(element: Element, known: set[str], floats: Collection[str], classes: Classes | None) -> Tree:
    """Return a TreeModel over fields that are known; `classes` is None where it predicts a number.

    `floats` are the fields that are FP32, and so is what they are compared with.
    """
    element.only(*_PARTS)
    strategy = element.choice("noTrueChildStrategy", "returnNullPrediction", _FALLS_BACK)
    root = _node(element.one("Node"), known, floats, classes)
    if root.predicate != Always(is_true=True):
        raise UnsupportedModelError(
            f"{element.where}: its outermost Node is not for every row: write <True/>"
        )
    return Tree(root, _FALLS_BACK[strategy])


def _node(element: Element, known: set[str], floats: Collection[str], classes: Classes | None) -> Node:
    element.only(*PREDICATES, "Node", "ScoreDistribution")
    children = tuple(_node(child, known, floats, classes) for child in element.all("Node"))
    leaf = _leaf(element, classes)
    if leaf is None and not children:
        raise ModelFileError(f"{element.where}: a leaf without a score")
    return Node(predicate(element.one(*PREDICATES), known, floats), leaf, children)


def _leaf(element: Element, classes: Classes | None) -> Leaf | None:
    """Return what a node answers by itself; None for one that says nothing."""
    if classes is None:
        return Leaf((element.number("score"),), 0) if "score" in element.attributes else None
    shares = [0.0] * len(classes.values)
    counts = element.all("ScoreDistribution")
    key = (
        "probability"
        if counts and all("probability" in each.attributes for each in counts)
        else "recordCount"
    )
    for each in counts:
        shares[classes.place(each, each.needed("value"))] += each.number(key)
    total = sum(shares)
    if "score" not in element.attributes and total <= 0:
        return None
    best = max(range(len(shares)), key=shares.__getitem__)
    label = classes.place(element, element.needed("score")) if "score" in element.attributes else best
    if total <= 0:
        shares[label] = total = 1.0
    return Leaf(tuple(share / total for share in shares), label)


def predicate(element: Element, known: set[str], floats: Collection[str]) -> Predicate:
    """Return what an element asks of a row in which no value is missing."""
    match element.name:
        case "True" | "False":
            return Always(element.name == "True")
        case "SimplePredicate":
            name = field_name(element, known)
            operator = element.choice("operator", "", (*COMPARISONS, *_MISSING))
            if operator in _MISSING:
                return Always(_MISSING[operator])
            return Comparison(name, operator, constant(element.number("value"), is_float=name in floats))
        case "SimpleSetPredicate":
            operator = element.choice("booleanOperator", "", ("isIn", "isNotIn"))
            array = element.sole("Array")
            try:
                texts = shlex.split(array.text)
            except ValueError as error:
                raise ModelFileError(f"{array.where}: {str(error).lower()}") from error
            name = field_name(element, known)
            values = [constant(array.finite(text, "the value"), is_float=name in floats) for text in texts]
            return Membership(name, tuple(values), operator == "isIn")
        case "CompoundPredicate":
            parts = tuple(predicate(child, known, floats) for child in element.only(*PREDICATES))
            operator = element.choice("booleanOperator", "", ("and", "or", "surrogate"))
            if not parts:
                raise ModelFileError(f"{element.where}: it has no parts")
            return parts[0] if operator == "surrogate" else Compound(operator == "and", parts)
    raise element.unsupported()
