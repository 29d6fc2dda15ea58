"""From fitted estimators of scikit-learn to PMML 4.4, in documents of which other programs read the same.

Linear models are sums of fields in double precision, with the scalers before them as fields that are
calculated. Trees ask for fields in single precision, to which scikit-learn rounds, and their thresholds are
rounded such that they divide single precision as before; a missing value goes where scikit-learn lets it go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from sklearn import ensemble, linear_model, preprocessing, tree
from sklearn.base import is_classifier

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.pmml_branches import largest_at_most

_Element = ElementTree.Element

_SUMS: Final = (
    linear_model.ARDRegression, linear_model.BayesianRidge, linear_model.ElasticNet,
    linear_model.ElasticNetCV, linear_model.HuberRegressor, linear_model.Lars, linear_model.Lasso,
    linear_model.LassoCV, linear_model.LinearRegression, linear_model.OrthogonalMatchingPursuit,
    linear_model.Ridge, linear_model.RidgeCV, linear_model.SGDRegressor, linear_model.TheilSenRegressor,
)  # fmt: skip
_TREES: Final = (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor)
_FORESTS: Final = (
    ensemble.ExtraTreesClassifier, ensemble.ExtraTreesRegressor, ensemble.RandomForestClassifier,
    ensemble.RandomForestRegressor,
)  # fmt: skip
_SCALERS: Final = (preprocessing.StandardScaler, preprocessing.MinMaxScaler)
_WRITTEN: Final = (
    "what is written as PMML: linear regressions, LogisticRegression, both after StandardScaler or "
    "MinMaxScaler, decision trees, random forests and extra trees, with one target"
)

_NAMESPACE: Final = "http://www.dmg.org/PMML-4_4"
_TARGET: Final = "y"
_TYPES: Final = {"b": "boolean", "i": "integer", "u": "integer", "f": "double"}
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(estimator: Any) -> bytes:
    """Return a fitted estimator or pipeline as a PMML document.

    Raises UnsupportedModelError naming the estimator that has no form in PMML here.
    """
    *before, last = [step for _, step in getattr(estimator, "steps", (("", estimator),))]
    before = [step for step in before if step not in ("passthrough", None)]
    _check(before, last)
    fields = _field_names(estimator)
    target = next(
        name for name in (_TARGET * count for count in range(1, len(fields) + 2)) if name not in fields
    )
    written = _Written(last, fields, target)
    root = _Element("PMML", version="4.4", xmlns=_NAMESPACE)
    _add(_add(root, "Header"), "Application", name="Headrace")
    written.dictionary(root)
    try:
        written.model(root, before)
        ElementTree.indent(root, " ")
        return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True)) + b"\n"
    except RecursionError as error:
        raise UnsupportedModelError(
            f"{type(last).__name__} is too deep a tree for PMML: limit max_depth"
        ) from error


def _check(before: Iterable[Any], last: Any) -> None:
    """Raise UnsupportedModelError for what is not written."""
    for step in before:
        if (
            not isinstance(step, _SCALERS)
            or getattr(step, "clip", False)
            or isinstance(last, (*_TREES, *_FORESTS))
        ):
            raise UnsupportedModelError(
                f"{type(step).__name__} before {type(last).__name__} has no form in PMML here; {_WRITTEN}"
            )
    known = (*_SUMS, linear_model.LogisticRegression, *_TREES, *_FORESTS)
    if not isinstance(last, known) or np.ndim(getattr(last, "classes_", (0,))[0]) or _targets(last) > 1:
        raise UnsupportedModelError(f"{type(last).__name__} has no form in PMML here; {_WRITTEN}")
    if _tells_each_from_the_rest(last):
        raise UnsupportedModelError(
            f"{type(last).__name__} that tells each class from the rest has no form in PMML here: fit it "
            "with another solver"
        )


def _tells_each_from_the_rest(last: Any) -> bool:
    if not isinstance(last, linear_model.LogisticRegression) or len(last.classes_) == 2:
        return False
    return last.solver == "liblinear" or getattr(last, "multi_class", "") == "ovr"


def _targets(last: Any) -> int:
    if is_classifier(last):
        return int(getattr(last, "n_outputs_", 1))
    return int(getattr(last, "n_outputs_", 0)) or len(np.atleast_1d(last.intercept_))


def _trees(last: Any) -> list[Any]:
    if isinstance(last, _TREES):
        return [last]
    return list(last.estimators_) if isinstance(last, _FORESTS) else []


def _field_names(estimator: Any) -> list[str]:
    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    names = getattr(first, "feature_names_in_", None)
    return (
        [f"x{place}" for place in range(first.n_features_in_)]
        if names is None
        else [str(each) for each in names]
    )


class _Written:
    """An estimator with the names of its fields and of its target."""

    def __init__(self, last: Any, fields: list[str], target: str) -> None:
        self._last = last
        self._fields = fields
        self._target = target
        self._classes = [_written(name) for name in last.classes_] if is_classifier(last) else []
        self._task = "classification" if self._classes else "regression"

    def dictionary(self, root: _Element) -> None:
        """Tell the types of the fields."""
        fields = _add(root, "DataDictionary")
        kind = "float" if _trees(self._last) else "double"
        for name in self._fields:
            _add(fields, "DataField", name=name, optype="continuous", dataType=kind)
        if not self._classes:
            _add(fields, "DataField", name=self._target, optype="continuous", dataType="double")
            return
        kind = _TYPES.get(np.asarray(self._last.classes_).dtype.kind, "string")
        target = _add(fields, "DataField", name=self._target, optype="categorical", dataType=kind)
        for name in self._classes:
            _add(target, "Value", value=name)

    def model(self, root: _Element, before: list[Any]) -> None:
        """Write the model."""
        if isinstance(self._last, _FORESTS):
            self._forest(root)
        elif isinstance(self._last, _TREES):
            self._tree(root, self._last)
        else:
            self._sums(root, before)

    def _begin(self, parent: _Element, kind: str, **attributes: str) -> _Element:
        model = _add(parent, kind, functionName=self._task, **attributes)
        schema = _add(model, "MiningSchema")
        for field in self._fields:
            _add(schema, "MiningField", name=field)
        _add(schema, "MiningField", name=self._target, usageType="target")
        return model

    def _sums(self, root: _Element, before: list[Any]) -> None:
        classes = self._classes
        method = ("softmax" if len(classes) > 2 else "logit") if classes else "none"
        model = self._begin(root, "RegressionModel", normalizationMethod=method)
        fields = self._scaled(model, before)
        weights = np.atleast_2d(self._last.coef_)
        intercepts = np.broadcast_to(self._last.intercept_, len(weights))
        # Of two classes the sum speaks for the second, and the first is what remains.
        names = classes if len(classes) != 2 else [classes[1]]
        for place, (row, intercept) in enumerate(zip(weights, intercepts, strict=True)):
            category = {"targetCategory": names[place]} if names else {}
            table = _add(model, "RegressionTable", intercept=_number(intercept), **category)
            for field, weight in zip(fields, row, strict=True):
                _add(table, "NumericPredictor", name=field, coefficient=_number(weight))
        if len(classes) == 2:
            _add(model, "RegressionTable", intercept="0", targetCategory=classes[0])

    def _scaled(self, model: _Element, before: list[Any]) -> list[str]:
        """Write the fields that scalers calculate, and return the names of the last ones."""
        fields = self._fields
        inside = _add(model, "LocalTransformations") if before else model
        for number, scaler in enumerate(before, 1):
            added, factors = _line(scaler)
            given, fields = fields, [f"{name} scaled {number}" for name in self._fields]
            for field, name, start, factor in zip(given, fields, added, factors, strict=True):
                derived = _add(inside, "DerivedField", name=name, optype="continuous", dataType="double")
                product = _add(derived, "Apply", function="*")
                moved = _add(product, "Apply", function="+")
                _add(moved, "FieldRef", field=field)
                _add(moved, "Constant", dataType="double").text = _number(start)
                _add(product, "Constant", dataType="double").text = _number(factor)
        return fields

    def _forest(self, root: _Element) -> None:
        model = self._begin(root, "MiningModel")
        segmentation = _add(model, "Segmentation", multipleModelMethod="average")
        for number, each in enumerate(self._last.estimators_, 1):
            segment = _add(segmentation, "Segment", id=str(number))
            _add(segment, "True")
            self._tree(segment, each)

    def _tree(self, parent: _Element, estimator: Any) -> None:
        model = self._begin(
            parent, "TreeModel", splitCharacteristic="binarySplit", missingValueStrategy="defaultChild"
        )
        root = _add(model, "Node")
        _add(root, "True")
        self._node(root, estimator.tree_, 0)

    def _node(self, node: _Element, grown: Any, place: int) -> None:
        """Write what comes after a node's predicate."""
        node.set("id", str(place))
        values = grown.value[place][0]
        count = float(grown.weighted_n_node_samples[place])
        node.set("score", self._classes[int(values.argmax())] if self._classes else _number(values[0]))
        node.set("recordCount", _number(count))
        if grown.children_left[place] < 0:
            for name, share in zip(
                self._classes, values / values.sum() if self._classes else (), strict=True
            ):
                shares = {"recordCount": _number(share * count), "probability": _number(share)}
                _add(node, "ScoreDistribution", value=name, **shares)
            return
        left, right = (int(children[place]) for children in (grown.children_left, grown.children_right))
        node.set("defaultChild", str(left if grown.missing_go_to_left[place] else right))
        asked = {
            "field": self._fields[grown.feature[place]],
            "value": _number(largest_at_most(float(grown.threshold[place]))),
        }
        for operator, child in (("lessOrEqual", left), ("greaterThan", right)):
            inner = _add(node, "Node")
            _add(inner, "SimplePredicate", operator=operator, **asked)
            self._node(inner, grown, child)


def _line(scaler: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what a scaler adds to each field, and what it multiplies the sum by."""
    width = scaler.n_features_in_
    if isinstance(scaler, preprocessing.MinMaxScaler):
        return np.asarray(scaler.min_ / scaler.scale_), np.asarray(scaler.scale_)
    means = np.zeros(width) if scaler.mean_ is None or not scaler.with_mean else scaler.mean_
    return -means, np.ones(width) if scaler.scale_ is None else 1 / scaler.scale_


def _add(parent: _Element, kind: str, /, **attributes: str) -> _Element:
    for value in attributes.values():
        if _NO_XML.search(value):
            raise UnsupportedModelError(f"the name {value!r} has characters that XML does not have")
    return ElementTree.SubElement(parent, kind, attributes)


def _number(value: Any) -> str:
    return repr(float(value))


def _written(name: Any) -> str:
    """Return a class as PMML writes it."""
    value = name.item() if isinstance(name, np.generic) else name
    return str(value).lower() if isinstance(value, bool) else str(value)
