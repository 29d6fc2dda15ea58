"""From a fitted scikit-learn estimator to ONNX, by scikit-learn's own exporter.

The exporter writes operators of the machine-learning domain, which `standardise` rewrites into ONNX's
own, with one exception: a CPU executes trees faster as they are. On one core of an x86 server, gathers
take this many times as long as ONNX Runtime's TreeEnsemble at batch 1, 8, 32 and 64: a forest of 100 trees
8.9, 11.0, 1.9 and 2.8; boosting in three classes of 100 trees each 2.7, 3.4, 3.1 and 2.4; histogram-based
boosting of 100 trees 11, 12, 72 and 8.8. Support vector machines are the other way round: products of
matrices take 0.76, 0.40, 0.15 and 0.14 of the time, unless their vectors lie so far apart that products do
not tell the distances. So a model with trees or such a machine is written twice: `model.onnx` for CPUs, and
beside it `model.standard.onnx`, which TensorRT's parser takes; they answer the same.

Scalers right before trees are folded into the trees' thresholds (see `sklearn_folding`), as FP32 would
take steps of its own beside them.

Classes that are text are told by the facts and not by the model, which then has no output `label`: the
columns of `probabilities` are in their order.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import sklearn
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
from sklearn.base import is_classifier, is_regressor
from sklearn.linear_model import RidgeClassifier
from sklearn.svm import SVC, LinearSVC, NuSVC

from headrace_engines.documents import Scalar
from headrace_engines.errors import EngineError, InputError, UnsupportedModelError
from headrace_engines.importers import (
    pmml_writer,
    sklearn_bins,
    sklearn_converters,
    sklearn_files,
    sklearn_folding,
)
from headrace_engines.importers.classical import (
    LABEL,
    ML_OPSET,
    PREDICTION,
    PROBABILITIES,
    SCORES,
    Converted,
    written,
)
from headrace_engines.importers.importer import COLUMNS, ImportOptions
from headrace_engines.importers.reasons import first_line
from headrace_engines.importers.sklearn_inputs import MATRIX, inputs_of
from headrace_engines.rows import Rows

FEATURES: Final = "features"
"""What a transformer without a prediction gives."""

_CLASS: Final = re.compile(r"'[\w.]*?(\w+)'>")
_BOOSTERS: Final = frozenset({"xgboost", "lightgbm"})


def open_source(path: Path, options: ImportOptions) -> SklearnImporter:
    """Open a file that holds a fitted estimator or pipeline: pickle, joblib or skops.

    Raises ModelFileError if it is damaged or another version of scikit-learn wrote what this one cannot
    restore, UnsupportedModelError if it holds no fitted estimator, or one that cannot be converted.
    """
    options.check_factory("an estimator of scikit-learn")
    stored = sklearn_files.opened(path, options)
    estimator = sklearn_files.fitted(stored.content, path.name)
    return SklearnImporter(estimator, options, stored.other_version)


def convert(estimator: Any, *, input_name: str, output_name: str) -> onnx.ModelProto:
    """Return a classifier as a graph from FP32 [batch, features] to FP32 class probabilities alone.

    The columns of the output are in the order of `classes_`. Raises UnsupportedModelError if it gives no
    probabilities, or there is no conversion.
    """
    if not hasattr(estimator, "predict_proba"):
        raise UnsupportedModelError(f"{type(estimator).__name__} gives no probabilities")
    sklearn_files.fitted(estimator, "the model")
    importer = SklearnImporter(estimator, ImportOptions(), "")
    return importer.converted({MATRIX: input_name, PROBABILITIES: output_name}, (PROBABILITIES,)).standard


class SklearnImporter:
    """A fitted estimator that is open; outputs are named `label` and `probabilities`, or `prediction`."""

    def __init__(self, estimator: Any, options: ImportOptions, other_version: str) -> None:
        self._estimator = estimator
        self._opset = options.opset
        self._other_version = other_version
        self._inputs = inputs_of(estimator, options)
        self._outputs = self._named()

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """The classes of the estimator and of its steps, the versions, the inputs, and what is predicted."""
        steps = [type(step).__name__ for _, step in getattr(self._estimator, "steps", ())]
        name = type(self._estimator).__name__
        facts: dict[str, Scalar] = {
            "class": f"{name} of {', '.join(steps)}" if steps else name,
            "framework": f"scikit-learn {sklearn.__version__}",
            "inputs": "one for each column" if self._inputs.are_columns else "one matrix",
            "features": len(self._inputs.dtypes) * self._inputs.width,
        }
        if (names := self._columns()) is not None:
            facts[COLUMNS] = json.dumps([str(name) for name in names])
        if self._other_version:
            facts["written_by"] = f"scikit-learn {self._other_version}"
        if is_classifier(self._estimator):
            facts["task"] = "classification"
            facts["classes"] = json.dumps(np.asarray(self._estimator.classes_).tolist())
        elif is_regressor(self._estimator):
            facts["task"] = "regression"
        return facts

    def convert(self, path: Path) -> None:
        """Write the model; one with trees also as `<name>.standard.onnx`, for TensorRT."""
        self.converted({}).save(path)

    def write_pmml(self, path: Path) -> None:
        """Write the estimator as PMML; UnsupportedModelError names what has no form in it."""
        path.write_bytes(pmml_writer.document(self._estimator))

    def converted(self, names: Mapping[str, str], only: Collection[str] = ()) -> Converted:
        """Return the model for CPUs and for TensorRT; `names` gives inputs and outputs other names.

        With `only`, there are no other outputs than these.

        Raises UnsupportedModelError naming the estimator that has no conversion.
        """
        outputs = [name if name in only or not only else "" for name in self._outputs]
        return written(self._export(), self._opset, outputs, names, self._amend)

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what the estimator answers; InputError if it does not take the rows."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a matrix for a table with the same columns
                given = self._inputs.arranged(rows)
                return tuple(_answer(self._estimator, name, given) for name in self._outputs if name)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{type(self._estimator).__name__} does not take these rows: {first_line(error)}"
            ) from error

    def _columns(self) -> Sequence[object] | None:
        """Return the names of the matrix's columns where the estimator was fitted on a table of such."""
        if self._inputs.are_columns or self._inputs.is_text:
            return None
        names: Sequence[object] | None = getattr(self._estimator, "feature_names_in_", None)
        return names

    def _named(self) -> tuple[str, ...]:
        """Return the names of the exporter's outputs; empty for labels that are text."""
        estimator = self._estimator
        if is_regressor(estimator):
            return (PREDICTION,)
        scores = PROBABILITIES if hasattr(estimator, "predict_proba") else SCORES
        if not is_classifier(estimator):
            return (LABEL, scores) if hasattr(estimator, "predict") else (FEATURES,)
        classes = estimator.classes_
        if isinstance(classes, list) or _has_several_labels(estimator):
            raise UnsupportedModelError(
                f"{type(estimator).__name__} gives several labels at once: store an estimator for each"
            )
        is_text = np.asarray(classes).dtype.kind in "OUS"
        if scores == SCORES and not hasattr(estimator, "decision_function"):
            if is_text:
                raise UnsupportedModelError(
                    f"{type(estimator).__name__} gives labels alone, and these are text: train it with "
                    "numbers for classes, or such that it gives probabilities (voting='soft')"
                )
            return (LABEL, "")
        return ("" if is_text else LABEL, scores)

    def _amend(self, model: onnx.ModelProto) -> None:
        if self._outputs[-1] == SCORES and is_classifier(self._estimator):
            _order_scores(model, self._estimator)

    def _export(self) -> onnx.ModelProto:
        sklearn_converters.register()
        if any(module in _BOOSTERS for module in _modules(self._estimator)):
            from headrace_engines.importers.boosting import register  # frameworks of another extra

            register(_modules(self._estimator))
        estimator = sklearn_bins.folded(self._estimator)
        model = sklearn_folding.folded(estimator, self._exported)
        return self._exported(estimator) if model is None else model

    def _exported(self, estimator: Any) -> onnx.ModelProto:
        try:
            model: onnx.ModelProto = convert_sklearn(
                estimator,
                initial_types=self._inputs.types(),
                target_opset={"": self._opset, "ai.onnx.ml": ML_OPSET},
            )
        except (MissingConverter, MissingShapeCalculator) as error:
            raise UnsupportedModelError(
                f"{_unknown(error)} has no conversion to ONNX: do what it does before the model is called"
            ) from error
        except EngineError:
            raise
        except Exception as error:  # the exporter's converters raise whatever they meet
            told = f"; it was stored by {self._other_version}" if self._other_version else ""
            raise UnsupportedModelError(
                f"{type(estimator).__name__} cannot be converted to ONNX: {first_line(error)}{told}"
            ) from error
        return model


def _order_scores(model: onnx.ModelProto, estimator: Any) -> None:
    """Let the scores of two classes be in two columns, the second class's last, as those of more are."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if len(estimator.classes_) != 2 or not isinstance(last, SVC | NuSVC | LinearSVC | RidgeClassifier):
        return
    output = model.graph.output[-1].name
    score = f"{output}_exported"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [score if name == output else name for name in names]
    if isinstance(last, SVC | NuSVC):
        places = numpy_helper.from_array(np.array([1, 0]), f"{score}_places")
        model.graph.initializer.append(places)
        model.graph.node.append(helper.make_node("Gather", [score, places.name], [output], axis=1))
    else:
        negative = f"{score}_negative"
        model.graph.node.append(helper.make_node("Neg", [score], [negative]))
        model.graph.node.append(helper.make_node("Concat", [negative, score], [output], axis=1))


def _unknown(error: Exception) -> str:
    found = _CLASS.search(str(error))
    return found[1] if found else "the estimator"


def _modules(estimator: Any) -> set[str]:
    """Return the packages that an estimator and all those inside it come from."""
    parts = (estimator, *estimator.get_params(deep=True).values())
    return {type(part).__module__.partition(".")[0] for part in parts}


def _has_several_labels(estimator: Any) -> bool:
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    binarizer = getattr(last, "_label_binarizer", None)
    return str(getattr(binarizer, "y_type_", "")).startswith("multilabel") or getattr(
        last, "multilabel_", False
    )


def _answer(estimator: Any, output: str, rows: Any) -> NDArray[Any]:
    """Return one output in the shape that the graph gives it."""
    match output:
        case "label":
            return np.asarray(estimator.predict(rows)).reshape(-1).astype(np.int64)
        case "probabilities":
            answer = estimator.predict_proba(rows)
        case "scores" if hasattr(estimator, "decision_function"):
            answer = estimator.decision_function(rows)
            if answer.ndim == 1 and is_classifier(estimator):
                answer = np.stack([-answer, answer], axis=1)
        case "scores" | "features":
            answer = estimator.transform(rows)
        case _:
            answer = estimator.predict(rows)
    return np.asarray(answer, np.float32).reshape(len(answer), -1)
