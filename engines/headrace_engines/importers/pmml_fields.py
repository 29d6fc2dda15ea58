"""The fields of a PMML document: those it is asked with, those it calculates, and the target's classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.pmml_document import (
    Apply,
    Constant,
    Derived,
    Expression,
    FieldRef,
    Filling,
)
from headrace_engines.importers.pmml_domains import filling, known_attributes, listed
from headrace_engines.importers.pmml_xml import Element
from headrace_engines.printable import printable

_NUMBERS: Final = ("integer", "float", "double")
_ARITHMETIC: Final = ("+", "-", "*", "/")
EXPRESSIONS: Final = ("Constant", "FieldRef", "NormContinuous", "Apply")
_ACTIVE: Final = "active"
_TARGETS: Final = ("target", "predicted")
_UNUSED: Final = ("supplementary", "group", "order", "frequencyWeight", "analysisWeight")
_WHOLE: Final = re.compile(r"([+-]?\d{1,18})(\.0*)?")


@dataclass(frozen=True, slots=True)
class Schema:
    """What a model is asked with and what it predicts; `target` is empty where no field is it.

    `floats` are the columns of FP32, `fillings` what is put into columns where a value is missing.
    """

    columns: tuple[str, ...]
    target: str
    floats: frozenset[str]
    fillings: Mapping[str, Filling]


def schema(model: Element, dictionary: Element) -> Schema:
    """Return the fields of a model; UnsupportedModelError names those that are no numbers."""
    columns: dict[str, Element] = {}
    target = ""
    for field in mining_fields(model):
        usage = field.choice("usageType", _ACTIVE, (_ACTIVE, *_TARGETS, *_UNUSED))
        if usage == _ACTIVE:
            name = field.needed("name")
            if name in columns:
                raise ModelFileError("a field is listed twice in the MiningSchema")
            columns[name] = field
        elif usage in _TARGETS:
            target = field.needed("name")
    fields = {field.needed("name"): field for field in dictionary.all("DataField")}
    for name in columns:
        if name not in fields:
            raise ModelFileError(f"the field {printable(name)!r} of the MiningSchema has no DataField")
        kind = fields[name].needed("dataType")
        if kind not in _NUMBERS:
            raise UnsupportedModelError(
                f"the field {printable(name)!r} is of type {printable(kind)}, and only numbers are read: "
                "turn it into numbers before the model is called"
            )
    if not columns:
        raise UnsupportedModelError("the model has no active field: there is nothing to ask it with")
    fillings = {name: filling(field, fields[name]) for name, field in columns.items()}
    return Schema(
        tuple(columns),
        target,
        frozenset(name for name in columns if fields[name].get("dataType") == "float"),
        {name: found for name, found in fillings.items() if found},
    )


def mining_fields(model: Element) -> list[Element]:
    """Return the fields of a model's schema, whose values must reach it as they are."""
    fields = model.one("MiningSchema").only("MiningField")
    for field in fields:
        known_attributes(field)
    return fields


@dataclass(frozen=True, slots=True)
class Classes:
    """The values of the target, in their order; `are_numbers` says that 1 and 1.0 are the same."""

    values: tuple[str, ...]
    are_numbers: bool

    def place(self, element: Element, text: str) -> int:
        """Return the place of a class that an element names; ModelFileError if the target has it not."""
        name = written(text, are_numbers=self.are_numbers)
        if name not in self.values:
            raise ModelFileError(f"{element.where}: the target has no class {printable(text)!r}")
        return self.values.index(name)


def classes(model: Element, target: str, dictionary: Element) -> Classes:
    """Return the classes of a target: as its DataField lists them, else as the model meets them."""
    field = next((each for each in dictionary.all("DataField") if each.get("name") == target), None)
    are_numbers = field is not None and field.get("dataType") in _NUMBERS
    told = [] if field is None else listed(field)
    names = dict.fromkeys(written(text, are_numbers=are_numbers) for text in told or _met(model))
    if len(names) < 2:
        raise UnsupportedModelError(
            f"the target {printable(target)!r} has {len(names)} classes: two are needed"
        )
    return Classes(tuple(names), are_numbers)


def _met(element: Element) -> list[str]:
    names = {"RegressionTable": "targetCategory", "ScoreDistribution": "value"}
    own = [element.get(names[element.name])] if element.name in names else []
    found = [*own, *(name for child in element.children for name in _met(child))]
    return [name for name in found if name]


def written(text: str, *, are_numbers: bool) -> str:
    """Return a class's name as it is told: whole numbers without a point."""
    whole = _WHOLE.fullmatch(text.strip()) if are_numbers else None
    return str(int(whole[1])) if whole else text


def derived(elements: Sequence[Element], known: Sequence[str]) -> tuple[Derived, ...]:
    """Return the fields that are calculated, each from those before it and the `known` ones."""
    names = set(known)
    found: list[Derived] = []
    for element in elements:
        name = element.needed("name")
        if element.get("dataType", "double") not in _NUMBERS:
            raise UnsupportedModelError(
                f"{element.where}: the field {printable(name)!r} is no number, and only numbers are read"
            )
        inner = element.sole(*EXPRESSIONS)
        found.append(Derived(name, expression(inner, names)))
        names.add(name)
    return tuple(found)


def expression(element: Element, known: set[str]) -> Expression:
    """Return what an element calculates from fields that are known by now."""
    match element.name:
        case "Constant":
            return Constant(element.finite(element.text.strip(), "the constant"))
        case "FieldRef":
            return FieldRef(field_name(element, known))
        case "NormContinuous":
            return _line(element, known)
        case "Apply":
            function = element.needed("function")
            if function not in _ARITHMETIC:
                raise UnsupportedModelError(
                    f"{element.where}: the function {printable(function)!r} is not read; + - * / are"
                )
            parts = [expression(child, known) for child in element.only(*EXPRESSIONS)]
            if len(parts) != 2:
                raise ModelFileError(f"{element.where}: {function} has {len(parts)} arguments, and needs 2")
            return Apply(function, *parts)
    raise element.unsupported()


def _line(element: Element, known: set[str]) -> Expression:
    """Return the line through two points, which goes on beyond them."""
    element.choice("outliers", "asIs", ("asIs",))
    points = [(each.number("orig"), each.number("norm")) for each in element.only("LinearNorm")]
    if len(points) != 2 or points[0][0] == points[1][0]:
        raise UnsupportedModelError(f"{element.where}: {len(points)} points; two different ones are read")
    (start, low), (end, high) = points
    steps = (("-", start), ("*", (high - low) / (end - start)), ("+", low))
    field: Expression = FieldRef(field_name(element, known))
    return reduce(lambda value, step: Apply(step[0], value, Constant(step[1])), steps, field)


def field_name(element: Element, known: set[str]) -> str:
    """Return the field that an element names; ModelFileError if there is none of that name."""
    name = element.get("field") or element.needed("name")
    if name not in known:
        raise ModelFileError(f"{element.where}: there is no field {printable(name)!r}")
    return name
