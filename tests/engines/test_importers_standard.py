from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from ml_models import ML_DOMAIN, Value, answers, assert_same, graph_model, ml_model, operators
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.importers.standard import is_native, standardise
from headrace_engines.importers.standard.graph import operator_of

FLOAT, INT64, STRING, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.DOUBLE
_RANDOM = np.random.default_rng(0)
_ROWS = np.concatenate([_RANDOM.normal(size=(29, 4)), np.zeros((2, 4)), np.ones((2, 4))]).astype(np.float32)
_HOLES = np.where(_RANDOM.random(_ROWS.shape) < 0.3, np.float32(np.nan), _ROWS)
_CODES = _RANDOM.integers(-1, 5, size=(20, 2))
_X: dict[str, Value] = {"x": (FLOAT, ["n", 4])}
_WEIGHTS = _RANDOM.normal(size=12).tolist()


def _out(kind: int = FLOAT, *dims: int | str) -> dict[str, Value]:
    return {"y": (kind, ["n", *dims])}


def _classes(scores: int) -> dict[str, Value]:
    return {"label": (INT64, ["n"]), "scores": (FLOAT, ["n", scores])}


def _linear(targets: int, labels: list[int], transform: str) -> onnx.ModelProto:
    return ml_model(
        "LinearClassifier",
        _X,
        _classes(len(labels)),
        coefficients=_WEIGHTS[: 4 * targets],
        intercepts=[0.5, -0.25, 0.125][:targets],
        classlabels_ints=labels,
        post_transform=transform,
        multi_class=1,
    )


_OF_SEVERAL = ("SOFTMAX", "SOFTMAX_ZERO", "PROBIT")
"""What ONNX Runtime makes of one score of two classes by rules of its own."""

_CASES: dict[str, tuple[onnx.ModelProto, np.ndarray[Any, Any]]] = {
    "scaler": (ml_model("Scaler", _X, _out(FLOAT, 4), offset=[1.0, 0, 2, 3], scale=[1.0, 2, 3, 4]), _ROWS),
    "scaler of integers": (
        ml_model("Scaler", {"x": (INT64, ["n", 2])}, _out(FLOAT, 2), offset=[1.0, 0], scale=[0.1, 2]),
        _CODES,
    ),
    **{
        f"norm {norm}": (ml_model("Normalizer", _X, _out(FLOAT, 4), norm=norm), _ROWS)
        for norm in ("L1", "L2")
    },
    "norm MAX": (ml_model("Normalizer", _X, _out(FLOAT, 4), norm="MAX"), np.abs(_ROWS)),
    "imputer": (
        ml_model(
            "Imputer",
            _X,
            _out(FLOAT, 4),
            imputed_value_floats=[1.0, 2, 3, 4],
            replaced_value_float=float("nan"),
        ),
        _HOLES,
    ),
    "imputer of zeros": (
        ml_model("Imputer", _X, _out(FLOAT, 4), imputed_value_floats=[7.0], replaced_value_float=0.0),
        _ROWS,
    ),
    "imputer of integers": (
        ml_model(
            "Imputer",
            {"x": (INT64, ["n", 2])},
            _out(INT64, 2),
            imputed_value_int64s=[8, 9],
            replaced_value_int64=-1,
        ),
        _CODES,
    ),
    "binarizer": (ml_model("Binarizer", _X, _out(FLOAT, 4), threshold=0.0), _ROWS),
    "one-hot": (
        ml_model("OneHotEncoder", {"x": (INT64, ["n", 2])}, _out(FLOAT, 2, 3), cats_int64s=[0, 1, 3]),
        _CODES,
    ),
    "one-hot of floats": (
        ml_model("OneHotEncoder", {"x": (FLOAT, ["n", 2])}, _out(FLOAT, 2, 3), cats_int64s=[0, 1, 3]),
        _CODES.astype(np.float32),
    ),
    "labels": (
        ml_model(
            "LabelEncoder",
            {"x": (INT64, ["n", 2])},
            _out(FLOAT, 2),
            keys_int64s=[3, 0, 1],
            values_floats=[0.5, 1.5, 2.5],
            default_float=-7.0,
        ),
        _CODES,
    ),
    "labels of floats with NaN": (
        ml_model(
            "LabelEncoder",
            _X,
            _out(INT64, 4),
            keys_floats=[1.0, float("nan"), 0.0],
            values_int64s=[4, 5, 6],
            default_int64=9,
            ml_opset=4,
        ),
        _HOLES,
    ),
    "features": (ml_model("FeatureVectorizer", _X, _out(FLOAT, 4), inputdimensions=[4]), _ROWS),
    "linear regressor": (
        ml_model(
            "LinearRegressor", _X, _out(FLOAT, 3), coefficients=_WEIGHTS, intercepts=[1.0, 2, 3], targets=3
        ),
        _ROWS,
    ),
    "linear regressor without intercept": (
        ml_model("LinearRegressor", _X, _out(FLOAT, 1), coefficients=_WEIGHTS[:4]),
        _ROWS,
    ),
    **{
        f"linear {targets} {labels} {transform}": (_linear(targets, labels, transform), _ROWS)
        for targets, labels in ((1, [0, 1]), (1, [7, 3]), (2, [0, 1]), (3, [0, 1, 2]), (3, [5, 9, 2]))
        for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")
        if not (targets == 1 and transform.startswith("SOFTMAX"))
    },
}


@pytest.mark.parametrize("name", _CASES)
def test_a_rewrite_answers_what_the_operator_answers(name: str) -> None:
    model, rows = _CASES[name]
    standard = standardise(model)
    assert standard.left == ()
    assert {node.domain for node in standard.model.graph.node} == {""}
    assert [opset.domain for opset in standard.model.opset_import] == [""]
    onnx.checker.check_model(standard.model, full_check=True)
    for count in (1, len(rows)):
        assert_same(answers(standard.model, rows[:count]), answers(model, rows[:count]))


def test_columns_are_extracted_from_matrices_and_vectors() -> None:
    places = numpy_helper.from_array(np.array([3, 0, 3]), "places")
    node = helper.make_node("ArrayFeatureExtractor", ["x", "places"], ["y"], domain=ML_DOMAIN)
    model = graph_model([node], _X, _out(FLOAT, 3), [places])
    assert_same(answers(standardise(model).model, _ROWS), answers(model, _ROWS))
    vector = numpy_helper.from_array(np.float32([5, 6, 7]), "vector")
    turned = helper.make_node("ArrayFeatureExtractor", ["vector", "x"], ["y"], domain=ML_DOMAIN)
    model = graph_model([turned], {"x": (INT64, ["n"])}, {"y": (FLOAT, [1, "n"])}, [vector])
    assert_same(answers(standardise(model).model, _CODES[:, 0] % 3), answers(model, _CODES[:, 0] % 3))


def test_a_list_of_dictionaries_becomes_a_matrix() -> None:
    linear = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "raw"],
        domain=ML_DOMAIN,
        coefficients=_WEIGHTS,
        intercepts=[0.0, 0, 0],
        classlabels_ints=[0, 1, 2],
    )
    zipped = helper.make_node("ZipMap", ["raw"], ["scores"], domain=ML_DOMAIN, classlabels_int64s=[0, 1, 2])
    model = graph_model([linear, zipped], _X, _classes(3))
    del model.graph.output[1]
    element = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    model.graph.output.append(helper.make_value_info("scores", helper.make_sequence_type_proto(element)))
    standard = standardise(model)
    _, maps = answers(model, _ROWS)
    label, scores = answers(standard.model, _ROWS)
    assert [value.name for value in standard.model.graph.output] == ["label", "scores"]
    assert scores.shape == (len(_ROWS), 3)
    np.testing.assert_allclose(scores, [[row[0], row[1], row[2]] for row in maps], atol=1e-6)
    assert (label == scores.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (
            ml_model(
                "LabelEncoder",
                {"x": (STRING, ["n"])},
                {"y": (INT64, ["n"])},
                keys_strings=["a", "b"],
                values_int64s=[1, 2],
            ),
            ("ai.onnx.ml.LabelEncoder", "x of strings"),
        ),
        (
            ml_model(
                "LinearClassifier",
                _X,
                {"label": (STRING, ["n"]), "scores": (FLOAT, ["n", 3])},
                coefficients=_WEIGHTS,
                intercepts=[0.0, 0, 0],
                classlabels_strings=["a", "b", "c"],
            ),
            ("Gather of strings", "label of strings"),
        ),
        (
            ml_model(
                "LinearRegressor", _X, _out(FLOAT, 1), coefficients=_WEIGHTS[:4], post_transform="PROBIT"
            ),
            ("ai.onnx.ml.LinearRegressor",),
        ),
        (
            ml_model("Binarizer", {"x": (DOUBLE, ["n", 4])}, _out(DOUBLE, 4)),
            ("ai.onnx.ml.Binarizer",),
        ),
        (
            ml_model(
                "LinearRegressor", _X, _out(FLOAT, 1), coefficients=_WEIGHTS[:4], post_transform="LOGISTIC"
            ),
            ("ai.onnx.ml.LinearRegressor",),
        ),
        *((_linear(1, [3, 7], transform), ("ai.onnx.ml.LinearClassifier",)) for transform in _OF_SEVERAL),
    ],
    ids=["text", "text for labels", "probit", "FP64", "one target", *_OF_SEVERAL],
)
def test_what_has_no_rewrite_is_named_and_kept(model: onnx.ModelProto, left: tuple[str, ...]) -> None:
    standard = standardise(model)
    assert standard.left == left
    onnx.checker.check_model(standard.model)


def test_an_unknown_category_fails_nobody() -> None:
    inputs, outputs = {"x": (INT64, ["n", 1])}, _out(FLOAT, 1, 2)
    model = ml_model("OneHotEncoder", inputs, outputs, cats_int64s=[0, 1], zeros=0)
    (flags,) = answers(standardise(model).model, np.array([[1], [5]]))
    np.testing.assert_array_equal(flags, [[[0, 1]], [[0, 0]]])


def _machine(gamma: float, *, distance: float) -> onnx.ModelProto:
    """A regressor of two clusters of vectors, so far from one another, both far from zero."""
    vectors = _RANDOM.normal(size=(40, 4)) + 5000.0 + distance * np.repeat([[-0.5], [0.5]], 20, axis=0)
    return ml_model(
        "SVMRegressor",
        _X,
        _out(FLOAT, 1),
        kernel_type="RBF",
        kernel_params=[gamma, 0.0, 3.0],
        support_vectors=vectors.reshape(-1).tolist(),
        coefficients=_RANDOM.normal(size=40).tolist(),
        rho=[0.25],
        n_supports=40,
    )


def _of_kernel(model: onnx.ModelProto, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the machine says in FP64."""
    told = operator_of(model.graph.node[0])
    vectors = told.floats("support_vectors").reshape(40, -1).astype(np.float64)
    distance = ((rows.astype(np.float64)[:, None] - vectors) ** 2).sum(axis=2)
    kernel = np.exp(-float(told.floats("kernel_params")[0]) * distance)
    return kernel @ told.floats("coefficients").reshape(-1, 1).astype(np.float64) + told.floats("rho")


@pytest.mark.parametrize(("gamma", "distance"), [(0.1, 2.0), (1.0, 2000.0), (1.0, 200.0)])
def test_a_narrow_kernel_keeps_its_digits(gamma: float, distance: float) -> None:
    model = _machine(gamma, distance=distance)
    vectors = operator_of(model.graph.node[0]).floats("support_vectors").reshape(40, -1)
    rows = (vectors + _RANDOM.normal(scale=0.3, size=vectors.shape)).astype(np.float32)
    expected = _of_kernel(model, rows)
    for form in (standardise(model), standardise(model, for_cpu=True)):
        (found,) = answers(form.model, rows)
        assert np.abs(found - expected).max() < 2e-5 * np.ptp(expected)
    assert standardise(model).left == ()


@pytest.mark.parametrize(("distance", "kept"), [(2000.0, ["ai.onnx.ml.SVMRegressor"]), (0.0, [])])
def test_a_cpu_keeps_a_machine_whose_vectors_lie_far_apart(distance: float, kept: list[str]) -> None:
    standard = standardise(_machine(0.1, distance=distance), for_cpu=True)
    assert list(standard.left) == kept
    assert any(map(is_native, standard.model.graph.node)) == bool(kept)


def test_the_model_that_is_given_is_left_alone() -> None:
    model, _ = _CASES["scaler"]
    before = model.SerializeToString()
    standardise(model)
    assert model.SerializeToString() == before


def test_an_old_opset_is_raised_so_that_rewrites_fit_into_it() -> None:
    scaled = helper.make_node("Scaler", ["x"], ["s"], domain=ML_DOMAIN, offset=[1.0], scale=[2.0])
    summed = helper.make_node("ReduceSum", ["s"], ["y"], axes=[1], keepdims=1)
    model = graph_model([scaled, summed], _X, _out(FLOAT, 1), opset=11, ml_opset=1)
    standard = standardise(model)
    assert [(opset.domain, opset.version) for opset in standard.model.opset_import] == [("", 17)]
    assert_same(answers(standard.model, _ROWS), answers(model, _ROWS))


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_reductions_take_their_axes_as_the_opset_will_have_it(opset: int) -> None:
    model = ml_model("Normalizer", _X, _out(FLOAT, 4), norm="L1", opset=opset)
    assert_same(answers(standardise(model).model, _ROWS), answers(model, _ROWS))


def test_products_and_their_biases_become_gemm_and_copies_go() -> None:
    weights = numpy_helper.from_array(_RANDOM.normal(size=(4, 3)).astype(np.float32), "weights")
    bias = numpy_helper.from_array(np.float32([[1, 2, 3]]), "bias")
    unread = numpy_helper.from_array(np.float32([1]), "unread")
    nodes = [
        helper.make_node("Identity", ["x"], ["copy"]),
        helper.make_node("Cast", ["copy"], ["same"], to=FLOAT),
        helper.make_node("MatMul", ["same", "weights"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["dead"]),
        helper.make_node("Identity", ["sum"], ["y"]),
    ]
    model = graph_model(nodes, _X, _out(FLOAT, 3), [weights, bias, unread])
    standard = standardise(model).model
    assert operators(standard) == ["Gemm"]
    assert [list(constant.dims) for constant in standard.graph.initializer] == [[4, 3], [3]]
    assert list(standard.graph.node[0].output) == ["y"]
    assert_same(answers(standard, _ROWS), answers(model, _ROWS))


def test_a_copy_between_input_and_output_stays() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    model = graph_model(nodes, _X, {**_out(FLOAT, 4), "z": (FLOAT, ["n", 4])})
    standard = standardise(model).model
    assert_same(answers(standard, _ROWS), [_ROWS, _ROWS])
