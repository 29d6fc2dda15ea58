"""Categories of scikit-learn's histogram-based boosting, as columns that its trees compare with one half.

A decision by categories asks whether a code is in a set. Each such set is a column of its own, zero for
what goes left and one for what goes right; a table holds the columns of all codes of a feature, so that
the row of a code is gathered once and trees stay as shallow as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from headrace_engines.errors import UnsupportedModelError

_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Sets:
    """The sets of an estimator's decisions.

    `tables` holds for each categorical feature FP32 [codes + 1, sets]: row 0 is for what is missing or
    unknown, row c + 1 for code c. `columns` is the place of each decision's set among the columns of all
    tables, by iteration, target and node.
    """

    tables: dict[int, NDArray[np.float32]]
    columns: dict[tuple[int, int, int], int]

    @property
    def width(self) -> int:
        """The columns of all tables together."""
        return sum(table.shape[1] for table in self.tables.values())


def sets_of(estimator: Any) -> Sets:
    """Return the sets that the decisions of a fitted estimator ask for."""
    known, places = estimator._bin_mapper.make_known_categories_bitsets()
    found: dict[int, dict[bytes, int]] = {}
    where: dict[tuple[int, int, int], tuple[int, int]] = {}
    for iteration, predictors in enumerate(estimator._predictors):
        for target, predictor in enumerate(predictors):
            for number in np.flatnonzero(predictor.nodes["is_categorical"] & ~predictor.nodes["is_leaf"]):
                node = predictor.nodes[number]
                feature = int(node["feature_idx"])
                column = _column(predictor, node, _bits(known[places[feature]]))
                numbers = found.setdefault(feature, {})
                place = numbers.setdefault(column.tobytes(), len(numbers))
                where[iteration, target, int(number)] = feature, place
    tables = {
        feature: np.stack([np.frombuffer(each, np.float32) for each in numbers], axis=1)
        for feature, numbers in sorted(found.items())
    }
    starts = dict(zip(tables, np.cumsum([0, *(table.shape[1] for table in tables.values())]), strict=False))
    return Sets(tables, {key: int(starts[feature]) + number for key, (feature, number) in where.items()})


def _column(predictor: Any, node: Any, is_known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return zeros and ones for the codes -1 (missing or unknown), 0, 1, ...: whether each goes right."""
    is_left = _bits(predictor.raw_left_cat_bitsets[node["bitset_idx"]])
    missing = bool(node["missing_go_to_left"])
    goes_left = np.concatenate([[missing], is_left | (~is_known & missing)])
    return (~goes_left).astype(np.float32)


def _bits(words: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return ((words[:, None] >> np.arange(_BITS, dtype=np.uint32)) & 1).astype(bool).reshape(-1)


def add_columns(scope: Any, operator: Any, container: Any, sets: Sets) -> str:
    """Return the sets' columns, and behind them those of the features that are numbers."""
    estimator = operator.raw_operator
    given: str = operator.inputs[0].full_name
    if estimator._preprocessor is None:
        return given
    is_category = np.asarray(estimator.is_categorical_)
    categories = estimator._preprocessor.named_transformers_["encoder"].categories_
    columns: list[str] = []
    for feature, place in enumerate(np.flatnonzero(is_category)):
        known = categories[feature]
        if known.dtype.kind not in "fiub":
            raise UnsupportedModelError(
                f"{type(estimator).__name__} with categories that are text takes no numbers: put an "
                f"OrdinalEncoder before it, in a ColumnTransformer"
            )
        if feature in sets.tables:
            column = _columns(scope, container, given, np.array([place]))
            code = _coded(scope, container, column, known.astype(np.float64))
            columns.append(_looked_up(scope, container, sets.tables[feature], code))
    if not is_category.all():
        columns.append(_columns(scope, container, given, np.flatnonzero(~is_category)))
    joined: str = scope.get_unique_variable_name("columns")
    container.add_node("Concat", columns, joined, axis=1, name=scope.get_unique_operator_name("Concat"))
    return joined


def _columns(scope: Any, container: Any, given: str, places: NDArray[np.int64]) -> str:
    constant = scope.get_unique_variable_name("places")
    container.add_initializer(constant, TensorProto.INT64, [len(places)], places.tolist())
    column: str = scope.get_unique_variable_name("column")
    name = scope.get_unique_operator_name("Gather")
    container.add_node("Gather", [given, constant], column, axis=1, name=name)
    return column


def _coded(scope: Any, container: Any, column: str, categories: NDArray[np.float64]) -> str:
    """Return each category's row in the table; row 0 also for one that FP32 cannot hold."""
    codes = np.flatnonzero(categories.astype(np.float32) == categories)
    coded: str = scope.get_unique_variable_name("coded")
    container.add_node(
        "LabelEncoder",
        column,
        coded,
        op_domain="ai.onnx.ml",
        op_version=2,
        name=scope.get_unique_operator_name("LabelEncoder"),
        keys_floats=categories[codes].astype(np.float32).tolist(),
        values_int64s=(codes + 1).tolist(),
        default_int64=0,
    )
    return coded


def _looked_up(scope: Any, container: Any, table: NDArray[np.float32], code: str) -> str:
    """Return the table's rows [rows, sets] at codes [rows, 1]."""
    constant, shape = scope.get_unique_variable_name("sets"), scope.get_unique_variable_name("shape")
    container.add_initializer(constant, TensorProto.FLOAT, list(table.shape), table.reshape(-1).tolist())
    container.add_initializer(shape, TensorProto.INT64, [1], [-1])
    flat = scope.get_unique_variable_name("flat")
    container.add_node("Reshape", [code, shape], flat, name=scope.get_unique_operator_name("Reshape"))
    rows: str = scope.get_unique_variable_name("members")
    name = scope.get_unique_operator_name("Gather")
    container.add_node("Gather", [constant, flat], rows, axis=0, name=name)
    return rows
