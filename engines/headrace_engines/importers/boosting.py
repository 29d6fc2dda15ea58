"""From gradient-boosted trees of XGBoost and LightGBM to ONNX, by the exporter that both share.

Either library's own file is read, and its estimators for scikit-learn from pickle or joblib. What comes out
is written as for scikit-learn (see `importers.sklearn`): trees as they are for CPUs, and beside them in
ONNX's own operators for TensorRT.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import joblib
import numpy as np
import onnx
from numpy.typing import NDArray

from headrace_engines.documents import Scalar
from headrace_engines.errors import EngineError, InputError, ModelFileError, UnsupportedModelError
from headrace_engines.importers.classical import LABEL, PREDICTION, PROBABILITIES, relabel, written
from headrace_engines.importers.importer import COLUMNS, ImportOptions
from headrace_engines.importers.reasons import first_line
from headrace_engines.rows import Rows

INPUT: Final = "input"
"""The name of the matrix of features."""

_PICKLE: Final = b"\x80"
_COMPRESSED: Final = (b"\x78", b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"\x04\x22\x4d\x18")
_LIGHTGBM: Final = b"tree"


class Booster(Protocol):
    """Trees of one of the libraries, opened, of which the exporter writes what they answer."""

    name: str
    framework: str
    features: int
    columns: tuple[str, ...]
    """The names of the features; none where nobody gave them any."""
    trees: int
    classes: NDArray[Any] | None
    """The labels in the order of the probabilities; None where values are predicted."""

    def export(self) -> onnx.ModelProto:
        """Return the exporter's model: places of classes and probabilities, or predictions."""

    def answer(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Return probabilities [rows, classes] or predictions [rows, targets]."""


def open_source(path: Path, options: ImportOptions) -> BoostingImporter:
    """Open a model file of XGBoost (JSON, UBJSON) or LightGBM (text), or a pickled estimator of theirs.

    Raises ModelFileError if it is damaged, UnsupportedModelError if it holds something else or uses what
    the exporter does not know.
    """
    options.check_factory("a model of boosted trees")
    with path.open("rb") as file:
        start = file.read(8)
    try:
        if start.startswith((_PICKLE, *_COMPRESSED)):
            booster = _of_estimator(joblib.load(path), path.name)
        elif start.startswith(_LIGHTGBM):
            from headrace_engines.importers.boosting_lightgbm import from_file as lightgbm_from_file

            booster = lightgbm_from_file(path)
        else:
            from headrace_engines.importers.boosting_xgboost import from_file

            booster = from_file(path)
    except (EngineError, ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:  # a library says of a damaged file what it likes
        raise ModelFileError(f"{path.name}: damaged, or no such model: {first_line(error)}") from error
    return BoostingImporter(booster, options)


def _of_estimator(content: Any, file: str) -> Booster:
    """Return the trees of an object that was pickled."""
    package = type(content).__module__.partition(".")[0]
    if package == "xgboost":
        from headrace_engines.importers.boosting_xgboost import from_object

        return from_object(content)
    if package == "lightgbm":
        from headrace_engines.importers.boosting_lightgbm import from_object as lightgbm_from_object

        return lightgbm_from_object(content)
    raise UnsupportedModelError(f"{file}: holds {type(content).__name__}, which is of neither library")


def register(packages: Collection[str]) -> None:
    """Have scikit-learn's exporter know these libraries' estimators, as steps of its pipelines."""
    if "xgboost" in packages:
        from headrace_engines.importers import boosting_xgboost

        boosting_xgboost.register()
    if "lightgbm" in packages:
        from headrace_engines.importers import boosting_lightgbm

        boosting_lightgbm.register()


class BoostingImporter:
    """Boosted trees that are open: `label` and `probabilities`, or `prediction`, for FP32 features."""

    def __init__(self, booster: Booster, options: ImportOptions) -> None:
        for name in (*options.input_shapes, *options.input_dtypes):
            if name != INPUT:
                raise UnsupportedModelError(f"there is no input {name!r}; the only one is {INPUT!r}")
        self._booster = booster
        self._opset = options.opset

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """What was boosted, the library's version, and how many features and trees there are."""
        facts: dict[str, Scalar] = {
            "class": self._booster.name,
            "framework": self._booster.framework,
            "features": self._booster.features,
            "trees": self._booster.trees,
            "task": "regression" if self._booster.classes is None else "classification",
        }
        if self._booster.columns:
            facts[COLUMNS] = json.dumps(self._booster.columns)
        if self._booster.classes is not None:
            facts["classes"] = json.dumps(self._booster.classes.tolist())
        return facts

    def convert(self, path: Path) -> None:
        """Write the model, and as `<name>.standard.onnx` the one for TensorRT."""
        try:
            model = self._booster.export()
        except EngineError:
            raise
        except Exception as error:  # the exporter raises whatever it meets
            raise UnsupportedModelError(
                f"{self._booster.name} cannot be converted to ONNX: {first_line(error)}"
            ) from error
        written(model, self._opset, self._outputs, {}, self._relabel).save(path)

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what the library answers; InputError if it does not take the rows."""
        features = np.asarray(rows[INPUT], np.float32)
        if features.ndim != 2 or features.shape[1] != self._booster.features:
            raise InputError(
                f"{self._booster.name} takes {self._booster.features} features, and not rows of shape "
                f"{features.shape[1:]}"
            )
        try:
            answer = self._booster.answer(features)
        except (ValueError, TypeError) as error:  # categories that are none, say
            raise InputError(f"{self._booster.name} does not take these rows: {first_line(error)}") from error
        classes = self._booster.classes
        if classes is None or _is_text(classes):
            return (answer.astype(np.float32),)
        return classes[answer.argmax(axis=1)].astype(np.int64), answer.astype(np.float32)

    def _relabel(self, model: onnx.ModelProto) -> None:
        classes = self._booster.classes
        if classes is not None and not _is_text(classes):
            relabel(model, classes.astype(np.int64))

    @property
    def _outputs(self) -> tuple[str, ...]:
        if self._booster.classes is None:
            return (PREDICTION,)
        return ("" if _is_text(self._booster.classes) else LABEL, PROBABILITIES)


def _is_text(classes: NDArray[Any]) -> bool:
    return classes.dtype.kind in "OUS"
