"""XML as PMML uses it: elements by their names without the namespace, and attributes that are numbers.

What no reader asks for is refused by its name: a model of which a part is overlooked answers wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.parsers import expat

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.printable import printable

READ: Final = (
    "what is read of PMML: RegressionModel with NumericPredictor, TreeModel, MiningModel of these, "
    "NeuralNetwork of logistic, tanh, identity and rectifier; "
    "SimplePredicate, SimpleSetPredicate of numbers, CompoundPredicate, True, False; DerivedField with "
    "FieldRef, Constant, NormContinuous of two points and Apply of + - * /; rescaleFactor and "
    "rescaleConstant of a Target"
)

_NAMESPACES: Final = ("", *(f"http://www.dmg.org/PMML-4_{minor}" for minor in range(5)))
_IGNORED: Final = frozenset({"Extension", "ModelStats", "ModelExplanation", "ModelVerification"})
"""What changes no answer, wherever it stands."""


@dataclass(slots=True)
class Element:
    """An element with its attributes, its text, and those inside it, but for what changes no answer."""

    name: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute that may be left out."""
        return self.attributes.get(name, default)

    def needed(self, name: str) -> str:
        """Return an attribute; ModelFileError where it is left out."""
        if name not in self.attributes:
            raise ModelFileError(f"{self.where}: it has no attribute {name!r}")
        return self.attributes[name]

    def number(self, name: str, default: float | None = None) -> float:
        """Return an attribute that is a finite number; ModelFileError if it is none."""
        if default is not None and name not in self.attributes:
            return default
        return self.finite(self.needed(name), name)

    def finite(self, text: str, what: str) -> float:
        """Return a text of this element as a finite number; `what` names it in the error."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ModelFileError(f"{self.where}: {what} {printable(text)!r} is no finite number")
        return value

    def only(self, *known: str) -> list[Element]:
        """Return the elements inside, all of which must be known."""
        for child in self.children:
            if child.name not in known:
                raise child.unsupported()
        return self.children

    def all(self, *names: str) -> list[Element]:
        """Return the elements inside that have one of these names."""
        return [child for child in self.children if child.name in names]

    def one(self, *names: str) -> Element:
        """Return the only element inside with one of these names."""
        found = self.all(*names)
        if len(found) != 1:
            wanted = names[0] if len(names) == 1 else "one of " + ", ".join(names)
            raise ModelFileError(f"{self.where}: it has {len(found)} of the one {wanted} that it needs")
        return found[0]

    def sole(self, *names: str) -> Element:
        """Return the only element inside, which must have one of these names."""
        self.only(*names)
        return self.one(*names)

    def choice(self, name: str, default: str, known: Collection[str]) -> str:
        """Return an attribute that must be one of the known values."""
        value = self.get(name, default)
        if value not in known:
            raise UnsupportedModelError(
                f"{self.where}: {name} {printable(value)!r} is not read; {', '.join(known)} are"
            )
        return value

    @property
    def where(self) -> str:
        """The element as a person finds it."""
        return f"<{printable(self.name)}> in line {self.line}"

    def unsupported(self) -> UnsupportedModelError:
        """Return the error, to be raised, for an element that is not read here."""
        return UnsupportedModelError(f"{self.where} is not read; {READ}")


def parsed(path: Path) -> Element:
    """Return the outermost element of a document.

    Raises ModelFileError if it is no well-formed XML, or declares a document type: PMML has none, and such a
    declaration can have a short file stand for a long one.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    reading = _Reading(parser)
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise ModelFileError(f"no well-formed XML: {error}") from error
    return reading.root.children[0]


class _Reading:
    """Elements as the parser meets them."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.root = Element("", {}, 0)
        self._parser = parser
        self._open = [self.root]
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype

    def _start(self, full_name: str, attributes: dict[str, str]) -> None:
        namespace, _, name = full_name.rpartition(" ")
        element = Element(name, attributes, self._parser.CurrentLineNumber)
        # Elements of other namespaces stand in extensions alone.
        if namespace not in _NAMESPACES and self._open[-1] is self.root:
            raise UnsupportedModelError(
                f"PMML of the namespace {printable(namespace)}: versions 4.0 to 4.4 are read"
            )
        if name not in _IGNORED:
            self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        self._open[-1].text += text

    def _doctype(self, *_declared: object) -> None:
        raise ModelFileError("the document declares a document type, which PMML does not have: take it out")
