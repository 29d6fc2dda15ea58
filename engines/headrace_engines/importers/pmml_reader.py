"""From a PMML file to the facts in it; what is not read is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from headrace_engines import files
from headrace_engines.errors import EngineError, UnsupportedModelError
from headrace_engines.importers.pmml_document import (
    Derived,
    Document,
    Mining,
    Model,
    Network,
    Regression,
    Segment,
    Tree,
)
from headrace_engines.importers.pmml_fields import Classes, classes, derived, mining_fields, schema
from headrace_engines.importers.pmml_network import network
from headrace_engines.importers.pmml_segments import CHAIN, METHODS, mining, outputs, segments
from headrace_engines.importers.pmml_tables import regression
from headrace_engines.importers.pmml_trees import tree
from headrace_engines.importers.pmml_xml import Element, parsed
from headrace_engines.printable import printable

MODELS: Final = ("RegressionModel", "TreeModel", "MiningModel", "NeuralNetwork")
_BESIDE: Final = ("Header", "MiningBuildTask", "DataDictionary", "TransformationDictionary")
_TASKS: Final = ("regression", "classification")


def read(path: Path) -> Document:
    """Return what a file says.

    Raises ModelFileError if it is damaged or contradicts itself, UnsupportedModelError if it uses what is not
    read; either text names the file, the element and its line.
    """
    try:
        return _document(parsed(path))
    except RecursionError as error:
        raise UnsupportedModelError(f"{path.name}: its elements are nested too deeply to be read") from error
    except OSError as error:
        raise files.unreadable(path, error) from error
    except EngineError as error:
        raise type(error)(f"{path.name}: {error}") from error


def _document(root: Element) -> Document:
    version = root.get("version")
    if root.name != "PMML" or not version.startswith("4."):
        raise UnsupportedModelError(f"{root.where} of version {printable(version)!r}: 4.0 to 4.4 are read")
    models = [child for child in root.only(*_BESIDE, *MODELS) if child.name in MODELS]
    if len(models) != 1:
        raise UnsupportedModelError(
            f"the document holds {len(models)} models: write each into a file of its own"
        )
    (element,) = models
    if element.get("isScorable", "true") != "true":
        raise UnsupportedModelError(f"{element.where} says that it is not meant to be asked (isScorable)")
    dictionary = root.one("DataDictionary")
    fields = schema(element, dictionary)
    target = classes(element, fields.target, dictionary) if _classifies(element) else None
    everywhere = [each for part in root.all("TransformationDictionary") for each in part.only("DerivedField")]
    model = _Reader(target, fields.floats).model(
        element, derived(everywhere, fields.columns), set(fields.columns)
    )
    classified = target.values if target else ()
    return Document(version, element.name, fields.columns, fields.target, classified, model, fields.fillings)


def _classifies(element: Element) -> bool:
    return element.choice("functionName", "", _TASKS) == "classification"


class _Reader:
    """Reads models, of which those that classify tell the same classes apart."""

    def __init__(self, target: Classes | None, floats: frozenset[str]) -> None:
        self._target = target
        self._floats = floats

    def model(self, element: Element, before: tuple[Derived, ...], known: set[str]) -> Model:
        """Return a model over the known fields; `before` are calculated ahead of its own."""
        mining_fields(element)
        inside = [each for part in element.all("LocalTransformations") for each in part.only("DerivedField")]
        known = known | {each.name for each in before}
        own = derived(inside, sorted(known))
        known |= {each.name for each in own}
        target = self._target if _classifies(element) else None
        if _classifies(element) and target is None:
            raise UnsupportedModelError(f"{element.where}: it classifies for a model that predicts a number")
        factor, constant = _rescaling(element)
        floats = self._floats - {each.name for each in (*before, *own)}
        body = self._body(element, known, floats, target)
        return Model(body, len(target.values) if target else 0, (*before, *own), factor, constant)

    def _body(
        self, element: Element, known: set[str], floats: frozenset[str], target: Classes | None
    ) -> Tree | Regression | Mining | Network:
        match element.name:
            case "TreeModel":
                return tree(element, known, floats, target)
            case "RegressionModel":
                return regression(element, known, target)
            case "NeuralNetwork":
                return network(element, known, target)
        method = element.one("Segmentation").choice("multipleModelMethod", "", METHODS)
        found: list[Segment] = []
        for weight, inner in segments(element, method, MODELS, known):
            _refuse_replacements(inner)
            model = self.model(inner, (), known)
            given = outputs(inner, known, self._target if model.classes else None) if method == CHAIN else ()
            known = known | {each.name for each in given}
            found.append(Segment(weight, model, given))
        return mining(element, method, found, 0 if target is None else len(target.values))


def _refuse_replacements(inner: Element) -> None:
    for field in mining_fields(inner):
        if "missingValueReplacement" in field.attributes:
            raise UnsupportedModelError(
                f"{field.where}: a missingValueReplacement of a model inside is not read: give it to the "
                "MiningSchema of the outermost model"
            )


def _rescaling(element: Element) -> tuple[float, float]:
    """Return what a number that is predicted is multiplied by, and what is added then."""
    targets = [each for part in element.all("Targets") for each in part.only("Target")]
    if not targets:
        return 1.0, 0.0
    if len(targets) > 1:
        raise UnsupportedModelError(f"{targets[1].where}: a second target; one is read")
    for name in ("min", "max", "castInteger"):
        if name in targets[0].attributes:
            raise UnsupportedModelError(f"{targets[0].where}: {name} is not read")
    return targets[0].number("rescaleFactor", 1.0), targets[0].number("rescaleConstant", 0.0)
