"""Which values the fields of a PMML document have: what stands for a missing one, and what is put there.

Every row gets an answer from a graph. Where the standard has none for a value (one outside of an Interval, or
beside the values that are listed), the document must say that it is taken as it is.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.pmml_document import Filling
from headrace_engines.importers.pmml_xml import Element
from headrace_engines.printable import printable

_DATA: Final = ("name", "displayName", "optype", "dataType", "isCyclic")
_MINING: Final = (
    "name",
    "usageType",
    "optype",
    "importance",
    "outliers",
    "lowValue",
    "highValue",
    "missingValueReplacement",
    "missingValueTreatment",
    "invalidValueTreatment",
    "invalidValueReplacement",
)
_PROPERTIES: Final = ("valid", "invalid", "missing")


def known_attributes(mining: Element) -> None:
    """Raise UnsupportedModelError if a field of a schema says something that is not read, or is to be cut."""
    _refuse_others(mining, _MINING)
    mining.choice("outliers", "asIs", ("asIs",))


def filling(mining: Element, data: Element) -> Filling | None:
    """Return what is put into a field where its value is missing; None where nothing is.

    Raises UnsupportedModelError where some rows have no answer by the standard, or another than the graph's.
    """
    _refuse_others(data, _DATA)
    data.choice("isCyclic", "0", ("0",))
    data.only("Value", "Interval")
    _refuse_invalid(mining, data)
    codes = [
        _exact(value, "value", data)
        for value in data.all("Value")
        if value.choice("property", "valid", _PROPERTIES) == "missing"
    ]
    if "missingValueReplacement" in mining.attributes:
        mining.choice("missingValueTreatment", "asIs", ("asIs", "asMean", "asMode", "asMedian", "asValue"))
        return Filling(tuple(codes), float(np.float32(mining.number("missingValueReplacement"))))
    if codes:
        raise UnsupportedModelError(
            f"{data.where}: {codes[0]:g} stands for a missing value, for which there is no answer: give its "
            "MiningField a missingValueReplacement"
        )
    return None


def listed(field: Element) -> list[str]:
    """Return the values of a target that are classes."""
    return [
        value.needed("value")
        for value in field.all("Value")
        if value.choice("property", "valid", _PROPERTIES) == "valid"
    ]


def constant(value: float, *, is_float: bool) -> float:
    """Return a number that a field is compared with, in the type of the field: FP32 rounds both."""
    return float(np.float32(value)) if is_float and abs(value) <= np.finfo(np.float32).max else value


def _exact(element: Element, name: str, data: Element) -> float:
    return constant(element.number(name), is_float=data.get("dataType") == "float")


def _refuse_invalid(mining: Element, data: Element) -> None:
    limits = [each for each in data.children if each.name == "Interval" or each.get("property") != "missing"]
    treatment = mining.get("invalidValueTreatment", "returnInvalid")
    if limits and treatment != "asIs":
        raise UnsupportedModelError(
            f"{limits[0].where}: what becomes of values of {printable(data.needed('name'))!r} that are not "
            f"valid (invalidValueTreatment {printable(treatment)!r}) is not read, as every row gets an "
            'answer: write invalidValueTreatment="asIs" at its MiningField to have them taken as they are'
        )


def _refuse_others(element: Element, names: tuple[str, ...]) -> None:
    for name in element.attributes:
        if name not in names and not name.startswith("x-"):
            raise UnsupportedModelError(
                f"{element.where}: its attribute {printable(name)!r} is not read; {', '.join(names)} are"
            )
