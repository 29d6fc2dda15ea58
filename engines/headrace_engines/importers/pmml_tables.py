"""RegressionModel as PMML writes it: tables of terms, one for each class."""

from __future__ import annotations

import json
from typing import Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.pmml_document import Regression, Table, Term
from headrace_engines.importers.pmml_fields import Classes, field_name
from headrace_engines.importers.pmml_xml import Element
from headrace_engines.printable import printable

_OF_NUMBERS: Final = ("none", "softmax", "logit", "exp")
_OF_CLASSES: Final = ("none", "softmax", "simplemax", "logit")
_MOST_EXPONENT: Final = 64


def regression(element: Element, known: set[str], target: Classes | None) -> Regression:
    """Return a RegressionModel over fields that are known; `target` is None where it predicts a number."""
    element.only("MiningSchema", "Output", "LocalTransformations", "Targets", "RegressionTable")
    name = element.choice("normalizationMethod", "none", _OF_CLASSES if target else _OF_NUMBERS)
    tables = tuple(_table(each, known, target) for each in element.all("RegressionTable"))
    if target is None:
        if len(tables) != 1:
            raise ModelFileError(f"{element.where}: {len(tables)} tables for one number")
        return Regression(name, tables)
    if sorted(table.category for table in tables) != list(range(len(target.values))):
        found = json.dumps([target.values[table.category] for table in tables])
        raise ModelFileError(
            f"{element.where}: its tables are for {printable(found)}: each of the target's "
            f"{len(target.values)} classes needs one"
        )
    if name == "logit" and len(tables) != 2:
        raise UnsupportedModelError(
            f"{element.where}: logit of {len(tables)} classes is not read; of 2 it is"
        )
    return Regression(name, tables)


def _table(element: Element, known: set[str], target: Classes | None) -> Table:
    terms = tuple(_term(each, known) for each in element.only("NumericPredictor"))
    category = target.place(element, element.needed("targetCategory")) if target else 0
    return Table(category, element.number("intercept"), terms)


def _term(element: Element, known: set[str]) -> Term:
    exponent = element.number("exponent", 1.0)
    if exponent not in range(_MOST_EXPONENT + 1):
        raise UnsupportedModelError(
            f"{element.where}: exponent {exponent:g} is not read; 0 to {_MOST_EXPONENT} are"
        )
    return Term(field_name(element, known), int(exponent), element.number("coefficient"))
