"""From PMML to ONNX, by the standard itself: versions 4.0 to 4.4.

The model takes one matrix `input` [batch, fields] in FP32, with the active fields in the order of the
MiningSchema, which the facts name. It answers `prediction` [batch, 1], or `label` [batch] and
`probabilities` [batch, classes] in the order of the target's values; without `label` where these are text.
No value may be missing but in a field with a replacement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from headrace_engines.documents import Scalar
from headrace_engines.errors import InputError, UnsupportedModelError
from headrace_engines.importers import pmml_values
from headrace_engines.importers.classical import LABEL, PREDICTION, PROBABILITIES, relabel, written
from headrace_engines.importers.importer import COLUMNS, ImportOptions
from headrace_engines.importers.pmml_document import Document
from headrace_engines.importers.pmml_graph import INPUT, model_of
from headrace_engines.importers.pmml_reader import read
from headrace_engines.rows import Rows


def open_source(path: Path, options: ImportOptions) -> PmmlImporter:
    """Open a document with one model.

    Raises ModelFileError if it is damaged or contradicts itself, UnsupportedModelError naming the element
    that is not read.
    """
    options.check_factory("a document in PMML")
    return PmmlImporter(read(path), options)


class PmmlImporter:
    """A document that was read."""

    def __init__(self, document: Document, options: ImportOptions) -> None:
        for name in (*options.input_shapes, *options.input_dtypes):
            if name != INPUT:
                raise UnsupportedModelError(f"there is no input {name!r}; the only one is {INPUT!r}")
        self._document = document
        self._opset = options.opset
        self._labels = _numbers(document.classes)

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """The model's element, the version of PMML, the fields by name, and what is predicted."""
        document = self._document
        facts: dict[str, Scalar] = {
            "class": document.element,
            "framework": f"PMML {document.version}",
            "features": len(document.columns),
            COLUMNS: json.dumps(document.columns),
            "task": "classification" if document.classes else "regression",
        }
        if document.target:
            facts["target"] = document.target
        if document.classes:
            told = document.classes if self._labels is None else self._labels.tolist()
            facts["classes"] = json.dumps(told)
        return facts

    def convert(self, path: Path) -> None:
        """Write the model; one with trees also as `<name>.standard.onnx`, for TensorRT."""
        model = model_of(self._document, self._opset)
        written(model, self._opset, self._outputs, {}, self._relabel).save(path)

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what the document answers by the standard; InputError if it does not take the rows."""
        if INPUT not in rows:
            raise InputError(f"the model takes {INPUT!r} alone")
        found = pmml_values.answer(self._document, np.asarray(rows[INPUT], np.float32))
        values = found.values.astype(np.float32)
        return (values,) if self._labels is None else (self._labels[found.labels], values)

    @property
    def _outputs(self) -> tuple[str, ...]:
        if not self._document.classes:
            return (PREDICTION,)
        return ("" if self._labels is None else LABEL, PROBABILITIES)

    def _relabel(self, model: onnx.ModelProto) -> None:
        if self._labels is not None:
            relabel(model, self._labels)


def _numbers(classes: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Return classes that are whole numbers; None for others, and for none at all."""
    try:
        labels = np.array([int(name) for name in classes], np.int64)
    except (ValueError, OverflowError):
        return None
    return labels if classes and tuple(map(str, labels)) == classes else None
