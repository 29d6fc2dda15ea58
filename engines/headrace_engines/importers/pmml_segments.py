"""MiningModel as PMML writes it: models beside each other, or one after another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.pmml_document import Always, Derived, Given, Mining, Segment
from headrace_engines.importers.pmml_fields import EXPRESSIONS, Classes, expression
from headrace_engines.importers.pmml_trees import PREDICATES, predicate
from headrace_engines.importers.pmml_xml import Element

CHAIN: Final = "modelChain"
VOTES: Final = ("majorityVote", "weightedMajorityVote")
_MEANS: Final = ("average", "weightedAverage")
METHODS: Final = (*_MEANS, "sum", *VOTES, CHAIN)
_PARTS: Final = ("MiningSchema", "Output", "LocalTransformations", "Targets", "Segmentation")


def segments(
    element: Element, method: str, models: Collection[str], known: set[str]
) -> Iterator[tuple[float, Element]]:
    """Yield the weights and models of a MiningModel, each of which must be for every row."""
    element.only(*_PARTS)
    for each in element.one("Segmentation").only("Segment"):
        each.only(*PREDICATES, *models)
        if predicate(each.one(*PREDICATES), known, ()) != Always(is_true=True):
            raise UnsupportedModelError(
                f"{each.where}: it is not for every row; segments with <True/> are read"
            )
        yield each.number("weight", 1.0) if method.startswith("weighted") else 1.0, each.one(*models)


def mining(element: Element, method: str, found: Sequence[Segment], classes: int) -> Mining:
    """Return the models together, once it is known that they answer what they are asked together."""
    if not found:
        raise ModelFileError(f"{element.where}: it has no segments")
    asked = found[-1:] if method == CHAIN else found
    if any(each.model.classes != classes for each in asked):
        raise ModelFileError(f"{element.where}: some of its segments classify, and others predict a number")
    if classes and method == "sum":
        raise UnsupportedModelError(f"{element.where}: the sum of classes is not read; their average is")
    if not classes and method in VOTES:
        raise UnsupportedModelError(f"{element.where}: {method} of numbers is not read; their average is")
    if sum(each.weight for each in found) <= 0:
        raise ModelFileError(f"{element.where}: the weights of its segments come to nothing")
    return Mining(method, tuple(found))


def outputs(model: Element, known: Collection[str], target: Classes | None) -> tuple[Given | Derived, ...]:
    """Return the numbers that a model gives to those after it; `target` is None where it predicts one."""
    found: list[Given | Derived] = []
    names = set(known)
    for element in [each for part in model.all("Output") for each in part.only("OutputField")]:
        name = element.needed("name")
        match element.get("feature", "predictedValue"):
            case "predictedValue" if target is None:
                found.append(Given(name, 0))
            case "probability" if target is not None and element.get("value"):
                found.append(Given(name, target.place(element, element.needed("value"))))
            case "transformedValue":
                found.append(Derived(name, expression(element.sole(*EXPRESSIONS), names)))
            case _:  # a label, say: that no model asks for it is seen where fields are looked up
                continue
        names.add(name)
    return tuple(found)
