"""What is made of columns before a model: where the exporter is less exact than scikit-learn, or knows less.

Rows are FP32, and scikit-learn compares them in FP64 with thresholds, edges and categories: these are
rounded here such that FP32 numbers fall on the same side. Categories that are numbers are compared as such,
where the exporter cuts off what is behind the point first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from skl2onnx.common._registration import register_shape_calculator
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from skl2onnx.operator_converters.common import concatenate_variables

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.sklearn_histogram import rounded_down

_AXES_ARE_INPUTS: Final = 18
"""The first opset in which reductions take their axes so."""
_NUMBERS: Final = np.finfo(np.float32)
_NO_NORM: Final = 10 * float(np.finfo(np.float64).eps)
"""scikit-learn takes a norm below this for zero."""

Converter = Callable[[Any, Any, Any], None]


def register_shapes() -> None:
    """Have the exporter know how many columns the converters of this module write."""
    for name in ("SklearnImputer", "SklearnSimpleImputer"):
        register_shape_calculator(name, _imputed_shape, True)
    register_shape_calculator("SklearnOneHotEncoder", _encoded_shape, True)


def binned(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Write a KBinsDiscretizer with edges that FP32 numbers lie on the same side of; its ones are dense."""
    estimator = operator.raw_operator
    operator.raw_operator = rounded = copy.copy(estimator)
    rounded.encode = "onehot-dense" if estimator.encode == "onehot" else estimator.encode
    rounded.bin_edges_ = np.array([_rounded_up(edges) for edges in estimator.bin_edges_], object)
    try:
        exporter(scope, operator, container)
    finally:
        operator.raw_operator = estimator


def binarized(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Write a Binarizer with a threshold that FP32 numbers lie on the same side of."""
    before = len(container.nodes)
    exporter(scope, operator, container)
    for node in container.nodes[before:]:
        for attribute in node.attribute:
            if attribute.name == "threshold":
                attribute.f = float(rounded_down(np.array(operator.raw_operator.threshold, np.float64)))


def normalized(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Write a Normalizer: rows divided by their largest magnitude first, so that no square overflows.

    `exporter` is not asked: its operator takes the largest value for the largest magnitude, and divides rows
    that scikit-learn takes for zeros and leaves as they are.
    """
    del exporter
    write = _Writer(scope, container)
    value = concatenate_variables(scope, operator.inputs, container, FloatTensorType)
    largest = write.reduced("ReduceMax", write("Abs", value))
    bounds = (write.constant(np.array(bound, np.float32)) for bound in (_NUMBERS.tiny, _NUMBERS.max))
    divisor = write("Clip", largest, *bounds)
    shares, norm = write("Div", value, divisor), largest
    if (kind := operator.raw_operator.norm) != "max":
        length = write.reduced(f"Reduce{kind.upper()}", shares)
        shares, norm = write("Div", shares, length), write("Mul", length, divisor)
    is_zero = write("Less", norm, write.constant(np.array(_NO_NORM, np.float32)))
    write("Where", is_zero, value, shares, output=operator.outputs[0].full_name)


def imputed(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Write a SimpleImputer: columns that were empty in training go, those that tell of gaps come last."""
    estimator = operator.raw_operator
    kept, missing_value = _kept(estimator), estimator.missing_values
    indicator = estimator.indicator_
    kind = type(operator.inputs[0].type)
    if (
        kind is FloatTensorType
        and _is_number(missing_value)
        and float(np.float32(missing_value)) != missing_value
    ):
        raise UnsupportedModelError(
            f"SimpleImputer takes {missing_value} for missing, which no FP32 number is: train it with NaN"
        )
    if indicator is None and len(kept) == estimator.n_features_in_:
        exporter(scope, operator, container)
        return
    if kind is not FloatTensorType:
        raise UnsupportedModelError(
            "SimpleImputer that drops columns, or has add_indicator, is converted for numbers alone: give "
            "its columns as float32, or impute before the model is called"
        )
    write = _Writer(scope, container)
    value = concatenate_variables(scope, operator.inputs, container, kind)
    own = write("Gather", value, write.constant(kept), axis=1)
    missing = _is_missing(write, own, missing_value)
    filled = write("Where", missing, write.constant(estimator.statistics_[kept].astype(np.float32)), own)
    parts = [filled]
    if indicator is not None:
        watched = write("Gather", value, write.constant(indicator.features_.astype(np.int64)), axis=1)
        gaps = _is_missing(write, watched, missing_value)
        parts.append(write("Cast", gaps, to=TensorProto.FLOAT))
    write("Concat", *parts, axis=1, output=operator.outputs[0].full_name)


def one_hot(exporter: Converter, scope: Any, operator: Any, container: Any) -> None:
    """Write a OneHotEncoder: each column's ones and zeros; a category that is unknown has zeros alone.

    `exporter` is not asked: it takes 2.7 for the category 2.
    """
    del exporter
    write = _Writer(scope, container)
    encoder = operator.raw_operator
    parts = []
    for place, (name, kind) in enumerate(_columns(write, operator)):
        categories = encoder.categories_[place]
        if len(categories):
            flags = _flags(write, name, kind, categories)
            parts.append(_grouped(write, encoder, place, flags))
    is_whole = np.issubdtype(encoder.dtype, np.signedinteger)
    joined = write("Concat", *parts, axis=1)
    write(
        "Cast",
        joined,
        to=TensorProto.INT64 if is_whole else TensorProto.FLOAT,
        output=operator.outputs[0].full_name,
    )


class _Writer:
    """Adds operators to the exporter's graph, each under names of their own."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def __call__(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operator and return the name of its output."""
        output = output or self._scope.get_unique_variable_name(kind.lower())
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, list(inputs), output, name=name, **attributes)
        return output

    def constant(self, values: NDArray[Any]) -> str:
        """Return the name of a constant of FP32 or INT64."""
        name: str = self._scope.get_unique_variable_name("constant")
        kind = TensorProto.FLOAT if values.dtype == np.float32 else TensorProto.INT64
        self._container.add_initializer(name, kind, list(values.shape), values.reshape(-1).tolist())
        return name

    def reduced(self, kind: str, value: str) -> str:
        """Return a reduction of each row, [rows, 1]."""
        if self._container.target_opset_any_domain("") < _AXES_ARE_INPUTS:
            return self(kind, value, axes=[1], keepdims=1)
        return self(kind, value, self.constant(np.array([1])), keepdims=1)


def _rounded_up(bounds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the smallest FP32 that is not smaller: x < bound is x < this for each FP32 x."""
    return -rounded_down(-np.asarray(bounds, np.float64))


def _kept(imputer: Any) -> NDArray[np.int64]:
    """Return the columns that had values in training: others an imputer drops."""
    statistics = np.asarray(imputer.statistics_)
    return np.flatnonzero(statistics == statistics)  # NaN alone differs from itself


def _is_missing(write: _Writer, value: str, missing: Any) -> str:
    if _is_number(missing):
        return write("Equal", value, write.constant(np.array([missing], np.float32)))
    return write("IsNaN", value)


def _is_number(missing: Any) -> bool:
    return isinstance(missing, Real) and not math.isnan(missing)


def _imputed_shape(operator: Any) -> None:
    imputer = operator.raw_operator
    watched = len(imputer.indicator_.features_) if imputer.indicator_ is not None else 0
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = type(operator.inputs[0].type)([rows, len(_kept(imputer)) + watched])


def _encoded_shape(operator: Any) -> None:
    encoder = operator.raw_operator
    is_whole = np.issubdtype(encoder.dtype, np.signedinteger)
    width = sum(map(len, _outputs(encoder)))
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = (Int64TensorType if is_whole else FloatTensorType)([rows, width])


def _outputs(encoder: Any) -> list[NDArray[np.int64]]:
    """Return for each column the places of what it keeps among its groups of categories."""
    dropped = encoder._drop_idx_after_grouping
    if dropped is None:
        dropped = [None] * len(encoder.categories_)
    return [
        np.array([at for at in range(_groups(encoder, place)) if at != dropped[place]], np.int64)
        for place in range(len(encoder.categories_))
    ]


def _groups(encoder: Any, place: int) -> int:
    return len(encoder._compute_transformed_categories(place, remove_dropped=False))


def _columns(write: _Writer, operator: Any) -> list[tuple[str, type]]:
    """Return each column [rows, 1] of all inputs, and its type."""
    columns: list[tuple[str, type]] = []
    for value in operator.inputs:
        width, kind = value.type.shape[1], type(value.type)
        if width == 1:
            columns.append((value.full_name, kind))
            continue
        for at in range(width):
            own = write("Gather", value.full_name, write.constant(np.array([at])), axis=1)
            columns.append((own, kind))
    return columns


def _flags(write: _Writer, name: str, kind: type, categories: NDArray[Any]) -> str:
    """Return [rows, categories] of FP32 zeros and ones."""
    if kind is StringTensorType:
        texts = [str(category).encode() for category in categories]
        flags = write("OneHotEncoder", name, op_domain="ai.onnx.ml", cats_strings=texts, zeros=1)
        shape = write.constant(np.array([-1, len(categories)]))
        return write("Reshape", flags, shape)
    if categories.dtype.kind not in "fiub":
        raise UnsupportedModelError(
            "OneHotEncoder with categories that are text takes no numbers: fit it on a table, whose columns "
            "have types of their own, or name the column's type (--input NAME:str)"
        )
    has_gap = categories.dtype.kind == "f" and bool(np.isnan(categories[-1]))
    known = categories[:-1] if has_gap else categories
    told = known.astype(np.float32) if kind is FloatTensorType else known.astype(np.int64)
    lost = known[told != known]
    if len(lost):
        raise UnsupportedModelError(
            f"OneHotEncoder's category {lost[0]!s} is none that a row can have, whose numbers are "
            f"{'FP32' if kind is FloatTensorType else 'whole'}: fit it on whole numbers, or on text"
        )
    parts = [write("Equal", name, write.constant(told))] if len(told) else []
    if has_gap:
        parts.append(write("IsNaN", name))
    truths = [write("Cast", part, to=TensorProto.FLOAT) for part in parts]
    return truths[0] if len(truths) == 1 else write("Concat", *truths, axis=1)


def _grouped(write: _Writer, encoder: Any, place: int, flags: str) -> str:
    """Return the columns that an encoder gives for one: those too rare to have one share the last."""
    count = len(encoder.categories_[place])
    groups = _groups(encoder, place)
    mappings = encoder._default_to_infrequent_mappings if encoder._infrequent_enabled else None
    mapping = None if mappings is None else mappings[place]
    if mapping is not None:
        rare = write("Gather", flags, write.constant(np.flatnonzero(mapping == groups - 1)), axis=1)
        rare = write.reduced("ReduceMax", rare)
        if encoder.handle_unknown in ("infrequent_if_exist", "warn"):
            unknown = write("Sub", write.constant(np.ones(1, np.float32)), write.reduced("ReduceMax", flags))
            rare = write("Add", rare, unknown)
        frequent = np.flatnonzero(mapping < groups - 1)
        if len(frequent):
            rare = write("Concat", write("Gather", flags, write.constant(frequent), axis=1), rare, axis=1)
        flags, count = rare, groups
    kept = _outputs(encoder)[place]
    return flags if len(kept) == count else write("Gather", flags, write.constant(kept), axis=1)
