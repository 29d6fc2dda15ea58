from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_models import answers, assert_same, ml_model, operators
from ml_trees import FEATURES, GRID, rows_on_thresholds, tree_attributes
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.importers.standard import standardise

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
_X = {"x": (FLOAT, ["n", FEATURES])}
_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def _regressor(attributes: dict[str, Any], targets: int, **more: Any) -> onnx.ModelProto:
    return ml_model(
        "TreeEnsembleRegressor", _X, {"y": (FLOAT, ["n", targets])}, n_targets=targets, **attributes, **more
    )


def _classifier(attributes: dict[str, Any], labels: list[int], **more: Any) -> onnx.ModelProto:
    outputs = {"label": (INT64, ["n"]), "scores": (FLOAT, ["n", len(labels)])}
    return ml_model("TreeEnsembleClassifier", _X, outputs, classlabels_int64s=labels, **attributes, **more)


def _assert_gathers(model: onnx.ModelProto, rows: Any) -> None:
    standard = standardise(model)
    assert standard.left == ()
    assert not {"MatMul", "Gemm"} & set(operators(standard.model))
    onnx.checker.check_model(standard.model, full_check=True)
    assert_same(answers(standard.model, rows), answers(model, rows))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    trees=st.integers(1, 6),
    depth=st.integers(0, 5),
    targets=st.integers(1, 3),
    modes=st.one_of(st.sampled_from([(mode,) for mode in _MODES]), st.just(_MODES)),
    has_missing=st.booleans(),
    own_target=st.booleans(),
)
def test_gathers_decide_as_trees_do_on_every_threshold(
    seed: int, trees: int, depth: int, targets: int, modes: Any, has_missing: bool, own_target: bool
) -> None:
    random = np.random.default_rng(seed)
    attributes = tree_attributes(
        random,
        trees=trees,
        depth=depth,
        targets=targets,
        modes=modes,
        tracks_missing=has_missing,
        own_target=own_target,
    )
    rows = rows_on_thresholds(random, 40, has_missing=has_missing)
    _assert_gathers(_regressor(attributes, targets), rows)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    labels=st.sampled_from([[0, 1], [0, 1, 2], [4, 9, 2, 7]]),
    transform=st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]),
    has_base=st.booleans(),
)
def test_classes_and_their_scores_are_the_operators(
    seed: int, labels: list[int], transform: str, has_base: bool
) -> None:
    random = np.random.default_rng(seed)
    several = tree_attributes(random, trees=5, depth=3, targets=len(labels), side="class")
    base = {"base_values": random.normal(size=len(labels)).tolist()} if has_base and len(labels) > 2 else {}
    model = _classifier(several, labels, post_transform=transform, **base)
    _assert_gathers(model, rows_on_thresholds(random, 30))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    transform=st.sampled_from(["NONE", "LOGISTIC"]),
    are_shares=st.booleans(),
    has_base=st.booleans(),
)
def test_two_classes_may_be_scored_by_one(
    seed: int, transform: str, are_shares: bool, has_base: bool
) -> None:
    random = np.random.default_rng(seed)
    attributes = tree_attributes(random, trees=4, depth=3, targets=1, side="class")
    if are_shares:
        attributes["class_weights"] = [abs(weight) / 8 for weight in attributes["class_weights"]]
    base = {"base_values": [float(random.normal())]} if has_base else {}
    model = _classifier(attributes, [3, 5], post_transform=transform, **base)
    _assert_gathers(model, rows_on_thresholds(random, 30))


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_trees_are_aggregated(aggregate: str) -> None:
    random = np.random.default_rng(1)
    attributes = tree_attributes(random, trees=5, depth=3, targets=1)
    model = _regressor(attributes, 1, aggregate_function=aggregate, base_values=[0.5])
    _assert_gathers(model, rows_on_thresholds(random, 50))


def test_many_targets_are_gathered_some_trees_at_a_time() -> None:
    random = np.random.default_rng(2)
    targets = 2**14
    attributes = tree_attributes(random, trees=5, depth=1, targets=1)
    leaves = len(attributes["target_ids"])
    attributes["target_ids"] = list(range(targets)) * leaves
    for name in ("treeids", "nodeids", "weights"):
        values = attributes[f"target_{name}"]
        attributes[f"target_{name}"] = [value for value in values for _ in range(targets)]
    _assert_gathers(_regressor(attributes, targets), rows_on_thresholds(random, 3))


def test_thresholds_of_infinity_divide_what_is_missing_from_the_rest() -> None:
    random = np.random.default_rng(3)
    for mode in ("BRANCH_LEQ", "BRANCH_GT"):
        attributes = tree_attributes(random, trees=3, depth=3, targets=1, modes=[mode], tracks_missing=True)
        attributes["nodes_values"][0] = float("inf")
        _assert_gathers(_regressor(attributes, 1), rows_on_thresholds(random, 60, has_missing=True))


def test_a_threshold_in_fp64_is_rounded_to_where_it_divides_fp32() -> None:
    between = np.nextafter(np.float32(0.1), np.float32(1)).astype(np.float64) - 1e-10
    model = ml_model(
        "TreeEnsembleRegressor",
        _X,
        {"y": (FLOAT, ["n", 1])},
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values_as_tensor=numpy_helper.from_array(np.array([between, 0, 0])),
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights_as_tensor=numpy_helper.from_array(np.array([1.0, 2.0])),
        n_targets=1,
    )
    lower, upper = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))
    rows = np.float32([[lower, 0, 0], [upper, 0, 0]])
    (scores,) = answers(standardise(model).model, rows)
    np.testing.assert_array_equal(scores, [[1], [2]])


@pytest.mark.parametrize("aggregate", range(4))
def test_the_operator_of_the_fifth_version_is_known(aggregate: int) -> None:
    def tensor(values: Any, dtype: type) -> TensorProto:
        return numpy_helper.from_array(np.array(values, dtype))

    model = ml_model(
        "TreeEnsemble",
        _X,
        {"y": (FLOAT, ["n", 1])},
        ml_opset=5,
        n_targets=1,
        aggregate_function=aggregate,
        tree_roots=[0, 2],
        nodes_featureids=[0, 2, 1],
        nodes_modes=tensor([0, 1, 3], np.uint8),
        nodes_splits=tensor(GRID[[1, 2, 3]], np.float32),
        nodes_truenodeids=[1, 0, 3],
        nodes_trueleafs=[0, 1, 1],
        nodes_falsenodeids=[2, 1, 4],
        nodes_falseleafs=[1, 1, 1],
        leaf_targetids=[0] * 5,
        leaf_weights=tensor([1, 2, 4, 8, 16], np.float32),
    )
    _assert_gathers(model, rows_on_thresholds(np.random.default_rng(4), 60))


def test_trees_that_ask_for_membership_or_lead_in_circles_stay() -> None:
    attributes = tree_attributes(np.random.default_rng(5), trees=1, depth=2, targets=1)
    attributes["nodes_truenodeids"][0] = 0
    model = helper.make_model(_regressor(attributes, 1).graph, opset_imports=[helper.make_opsetid("", 17)])
    assert standardise(model).left == ("ai.onnx.ml.TreeEnsembleRegressor",)


def _stump(side: str, mode: str, bound: float, ids: list[int]) -> dict[str, Any]:
    """A tree of one question, whose leaves speak of these targets."""
    return {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": [mode, "LEAF", "LEAF"],
        "nodes_values": [bound, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "nodes_missing_value_tracks_true": [1, 0, 0],
        f"{side}_treeids": [0, 0],
        f"{side}_nodeids": [1, 2],
        f"{side}_ids": ids,
        f"{side}_weights": [1.0, 2.0],
    }


@pytest.mark.parametrize(
    ("mode", "bound"),
    [
        *((mode, float("nan")) for mode in _MODES),
        ("BRANCH_EQ", float("inf")),
        ("BRANCH_NEQ", float("inf")),
        ("BRANCH_EQ", 1e-40),
        ("BRANCH_LT", float("-inf")),
        ("BRANCH_GTE", float("-inf")),
    ],
)
def test_a_bound_that_no_comparison_of_two_tells_stays(mode: str, bound: float) -> None:
    model = _regressor(_stump("target", mode, bound, [0, 0]), 1)
    assert standardise(model).left == ("ai.onnx.ml.TreeEnsembleRegressor",)


@pytest.mark.parametrize(
    ("mode", "bound"),
    [
        ("BRANCH_LEQ", float("inf")),
        ("BRANCH_LEQ", float("-inf")),
        ("BRANCH_GT", float("inf")),
        ("BRANCH_EQ", float("-inf")),
        ("BRANCH_LT", float("inf")),
    ],
)
def test_what_is_infinite_is_compared_with_infinity(mode: str, bound: float) -> None:
    rows = np.zeros((5, FEATURES), np.float32)
    rows[:, 0] = [-np.inf, np.inf, np.nan, 0, 3e38]
    _assert_gathers(_regressor(_stump("target", mode, bound, [0, 0]), 1), rows)


def test_rows_that_no_leaf_scores_are_left_to_the_runtime() -> None:
    one_each = _classifier(_stump("class", "BRANCH_LEQ", 0.5, [0, 1]), [3, 7])
    assert standardise(one_each).left == ("ai.onnx.ml.TreeEnsembleClassifier",)
    based = _regressor(_stump("target", "BRANCH_LEQ", 0.5, [0, 1]), 2, base_values=[1.0, 2.0])
    assert standardise(based).left == ("ai.onnx.ml.TreeEnsembleRegressor",)
