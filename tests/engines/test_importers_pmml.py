"""PMML documents by hand, each about one element: what the standard says of it, and what ONNX answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from classical_models import assert_faithful
from numpy.typing import NDArray
from pmml_documents import document, regression, split, tree, written

from headrace_engines.errors import InputError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.pmml import PmmlImporter, open_source

_RANDOM = np.random.default_rng(3)
ROWS = _RANDOM.normal(size=(64, 2)).astype(np.float32)
A, B = ROWS.astype(np.float64).T

_TERMS = '<NumericPredictor name="a" coefficient="2"/><NumericPredictor name="b" coefficient="-0.5"/>'
_SUM = 2 * A - 0.5 * B + 1
_TABLE = f'<RegressionTable intercept="1">{_TERMS}</RegressionTable>'
_THREE = "".join(
    f'<RegressionTable intercept="{place / 2}" targetCategory="{name}">'
    f'<NumericPredictor name="{field}" coefficient="1.5"/></RegressionTable>'
    for place, (name, field) in enumerate([("z", "a"), ("x", "b"), ("y", "a")])
)
_TWO = (
    f'<RegressionTable intercept="1" targetCategory="1">{_TERMS}</RegressionTable>'
    '<RegressionTable intercept="0" targetCategory="0"/>'
)


def opened(text: str, folder: Path) -> PmmlImporter:
    return open_source(written(text, folder), ImportOptions())


def answered(text: str, folder: Path, rows: NDArray[np.float32] = ROWS) -> tuple[NDArray[np.generic], ...]:
    """What a document answers, once its ONNX was seen to answer the same."""
    importer = opened(text, folder)
    assert_faithful(importer, folder, {"input": rows})
    return importer.answers({"input": rows})


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize(
    ("method", "expected"),
    [("none", _SUM), ("exp", np.exp(_SUM)), ("logit", _sigmoid(_SUM)), ("softmax", _sigmoid(_SUM))],
)
def test_a_number_is_a_sum(method: str, expected: NDArray[np.float64], tmp_path: Path) -> None:
    (found,) = answered(document(regression(_TABLE, normalizationMethod=method)), tmp_path)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


def test_terms_have_powers(tmp_path: Path) -> None:
    powers = (
        '<RegressionTable intercept="0"><NumericPredictor name="a" exponent="2" coefficient="3"/>'
        '<NumericPredictor name="a" coefficient="1"/>'
        '<NumericPredictor name="b" exponent="3" coefficient="1"/>'
        '<NumericPredictor name="b" exponent="0" coefficient="4"/></RegressionTable>'
    )
    (found,) = answered(document(regression(powers)), tmp_path)
    np.testing.assert_allclose(found[:, 0], 3 * A**2 + A + B**3 + 4, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", ["4.0", "4.1", "4.2", "4.3", "4.4"])
def test_classes_come_in_the_order_of_the_target(version: str, tmp_path: Path) -> None:
    model = regression(_THREE, functionName="classification", normalizationMethod="softmax")
    text = document(model, classes=("x", "y", "z"), version=version)
    (found,) = answered(text, tmp_path)  # text is told by the facts
    powers = np.exp(np.stack([1.5 * B + 0.5, 1.5 * A + 1, 1.5 * A], axis=1))
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    assert opened(text, tmp_path).facts == {
        "class": "RegressionModel",
        "framework": f"PMML {version}",
        "features": 2,
        "columns": '["a", "b"]',
        "task": "classification",
        "target": "y",
        "classes": '["x", "y", "z"]',
    }


@pytest.mark.parametrize(
    ("method", "of_first"), [("logit", _sigmoid(_SUM)), ("none", _SUM), ("simplemax", _SUM / _SUM)]
)
def test_of_two_classes_the_second_is_what_remains(
    method: str, of_first: NDArray[np.float64], tmp_path: Path
) -> None:
    model = regression(_TWO, functionName="classification", normalizationMethod=method)
    label, shares = answered(document(model, classes=("0", "1"), class_type="integer"), tmp_path)
    np.testing.assert_allclose(shares[:, 1], of_first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shares[:, 0], 1 - of_first, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(label, of_first > 0.5)


def test_labels_are_the_numbers_that_the_target_has(tmp_path: Path) -> None:
    model = regression(
        _TWO.replace('"1">', '"7.0">').replace('"0"/>', '"-3"/>'),
        functionName="classification", normalizationMethod="logit",
    )  # fmt: skip
    text = document(model, classes=("-3", "7"), class_type="double")
    label, shares = answered(text, tmp_path)
    np.testing.assert_array_equal(label, np.where(shares[:, 1] > 0.5, 7, -3))
    assert json.loads(str(opened(text, tmp_path).facts["classes"])) == [-3, 7]


@pytest.mark.parametrize(("name", "kind"), [("01", "string"), ("9" * 30, "string"), ("9" * 30, "integer")])
def test_classes_that_are_no_plain_numbers_are_texts(name: str, kind: str, tmp_path: Path) -> None:
    model = regression(
        _TWO.replace('="0"/>', f'="{name}"/>'), functionName="classification", normalizationMethod="logit"
    )
    text = document(model, classes=(name, "1"), class_type=kind)
    assert len(answered(text, tmp_path)) == 1
    assert json.loads(str(opened(text, tmp_path).facts["classes"])) == [name, "1"]


@pytest.mark.parametrize(
    ("operator", "holds"),
    [
        ("equal", np.equal),
        ("notEqual", np.not_equal),
        ("lessThan", np.less),
        ("lessOrEqual", np.less_equal),
        ("greaterThan", np.greater),
        ("greaterOrEqual", np.greater_equal),
    ],
)
def test_comparisons(operator: str, holds: np.ufunc, tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[::3, 0] = 0.5
    rows[1::3, 0] = np.nextafter(np.float32(0.5), np.float32(1))
    question = f'<SimplePredicate field="a" operator="{operator}" value="0.5"/>'
    (found,) = answered(document(split(question)), tmp_path, rows)
    np.testing.assert_array_equal(found[:, 0], holds(rows[:, 0], 0.5))


_LOW = '<SimplePredicate field="a" operator="lessThan" value="0.3"/>'
_HIGH = '<SimplePredicate field="b" operator="greaterThan" value="-0.2"/>'


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("<True/>", np.ones(64)),
        ("<False/>", np.zeros(64)),
        (
            f'<CompoundPredicate booleanOperator="and">{_LOW}{_HIGH}</CompoundPredicate>',
            (A < 0.3) & (B > -0.2),
        ),
        (
            f'<CompoundPredicate booleanOperator="or">{_LOW}{_HIGH}</CompoundPredicate>',
            (A < 0.3) | (B > -0.2),
        ),
        (f'<CompoundPredicate booleanOperator="surrogate">{_LOW}{_HIGH}</CompoundPredicate>', A < 0.3),
        ('<SimplePredicate field="a" operator="isMissing"/>', np.zeros(64)),
        ('<SimplePredicate field="a" operator="isNotMissing"/>', np.ones(64)),
    ],
)
def test_predicates(predicate: str, expected: NDArray[np.bool_], tmp_path: Path) -> None:
    (found,) = answered(document(split(predicate)), tmp_path)
    np.testing.assert_array_equal(found[:, 0], expected)


@pytest.mark.parametrize(("operator", "expected"), [("isIn", True), ("isNotIn", False)])
def test_sets_of_numbers(operator: str, expected: bool, tmp_path: Path) -> None:
    rows = _RANDOM.integers(-2, 6, size=(80, 2)).astype(np.float32)
    values = '<Array n="3" type="int">1 3 "4"</Array>'
    question = f'<SimpleSetPredicate field="b" booleanOperator="{operator}">{values}</SimpleSetPredicate>'
    (found,) = answered(document(split(question), field_type="integer"), tmp_path, rows)
    np.testing.assert_array_equal(found[:, 0] == 1, np.isin(rows[:, 1], [1, 3, 4]) == expected)


def test_thresholds_divide_as_in_double_precision(tmp_path: Path) -> None:
    third = np.float32(1 / 3)
    near = [np.nextafter(third, np.float32(end)) for end in (0, 1)]
    rows = np.array([[value, 0] for value in (near[0], third, near[1], 0, 1)], np.float32)
    for operator in ("lessThan", "lessOrEqual", "greaterThan", "greaterOrEqual", "equal"):
        question = f'<SimplePredicate field="a" operator="{operator}" value="{1 / 3!r}"/>'
        (found,) = answered(document(split(question)), tmp_path, rows)
        assert (found[:, 0] == 1).sum() == {"l": 2, "g": 3, "e": 0}[operator[0]]


def test_a_node_without_a_child_for_the_row_answers_itself(tmp_path: Path) -> None:
    inside = f'<Node score="1">{_LOW}</Node><Node score="2">{_HIGH}</Node>'
    (found,) = answered(document(tree(inside, noTrueChildStrategy="returnLastPrediction")), tmp_path)
    np.testing.assert_array_equal(found[:, 0], np.where(A < 0.3, 1, np.where(B > -0.2, 2, -1)))


def test_children_that_are_for_every_row_need_no_last_one(tmp_path: Path) -> None:
    ways = [("lessOrEqual", 0.1), ("greaterThan", 0.8)]
    outside = [f'<SimplePredicate field="a" operator="{name}" value="{value}"/>' for name, value in ways]
    between = (
        '<CompoundPredicate booleanOperator="and">'
        '<SimplePredicate field="a" operator="greaterThan" value="0.1"/>'
        '<SimplePredicate field="a" operator="lessOrEqual" value="0.8"/></CompoundPredicate>'
    )
    inside = "".join(f'<Node score="{n}">{each}</Node>' for n, each in enumerate([*outside, between]))
    (found,) = answered(document(tree(inside)), tmp_path)
    np.testing.assert_array_equal(found[:, 0], np.where(A <= 0.1, 0, np.where(A > 0.8, 1, 2)))


def _leaf(question: str, shares: tuple[float, float], key: str, score: str = "") -> str:
    told = f' score="{score}"' if score else ""
    listed = "".join(
        f'<ScoreDistribution value="{name}" {key}="{share}"/>'
        for name, share in zip(("no", "yes"), shares, strict=True)
    )
    return f"<Node{told}>{question}{listed}</Node>"


@pytest.mark.parametrize("key", ["recordCount", "probability"])
def test_shares_of_classes(key: str, tmp_path: Path) -> None:
    inside = _leaf(_LOW, (0.25, 0.75), key) + _leaf("<True/>", (0.6, 0.4), key)
    text = document(
        tree(inside, functionName="classification").replace(' score="-1"', ""), classes=("no", "yes")
    )
    (found,) = answered(text, tmp_path)
    np.testing.assert_allclose(found[:, 1], np.where(A < 0.3, 0.75, 0.4), rtol=1e-6)


def test_the_label_is_the_score_whatever_the_shares(tmp_path: Path) -> None:
    inside = _leaf(_LOW, (3, 1), "recordCount", "yes") + '<Node score="no"><True/></Node>'
    model = tree(inside, functionName="classification").replace(' score="-1"', "")
    text = document(model, classes=("no", "yes")).replace('"no"', '"10"').replace('"yes"', '"20"')
    label, shares = answered(text, tmp_path)
    np.testing.assert_array_equal(label, np.where(A < 0.3, 20, 10))
    np.testing.assert_allclose(shares[:, 0], np.where(A < 0.3, 0.75, 1), rtol=1e-6)


_DOUBLED = (
    '<DerivedField name="c" optype="continuous" dataType="double"><Apply function="*"><FieldRef field="a"/>'
    '<Constant dataType="double">2</Constant></Apply></DerivedField>'
)
_SCALED = (
    '<DerivedField name="d" optype="continuous" dataType="double"><NormContinuous field="c">'
    '<LinearNorm orig="1" norm="0"/><LinearNorm orig="3" norm="1"/></NormContinuous></DerivedField>'
    '<DerivedField name="e" optype="continuous" dataType="double"><Apply function="/"><Constant>1</Constant>'
    '<Apply function="+"><Apply function="-"><FieldRef field="b"/><FieldRef field="b"/></Apply>'
    "<Constant>4</Constant></Apply></Apply></DerivedField>"
    '<DerivedField name="f" optype="continuous" dataType="double"><Constant>0.5</Constant></DerivedField>'
    '<DerivedField name="g" optype="continuous" dataType="float"><FieldRef field="a"/></DerivedField>'
)


def test_fields_are_calculated(tmp_path: Path) -> None:
    everywhere = f"<TransformationDictionary>{_DOUBLED}</TransformationDictionary>"
    terms = "".join(f'<NumericPredictor name="{name}" coefficient="1"/>' for name in "cdefg")
    inside = (
        f"<LocalTransformations>{_SCALED}</LocalTransformations>"
        f'<RegressionTable intercept="0">{terms}</RegressionTable>'
    )
    (found,) = answered(document(regression(inside), before=everywhere), tmp_path)
    np.testing.assert_allclose(found[:, 0], 2 * A + (A - 0.5) + 0.25 + 0.5 + A, rtol=1e-4, atol=1e-5)


def test_trees_ask_for_calculated_fields(tmp_path: Path) -> None:
    everywhere = f"<TransformationDictionary>{_DOUBLED}</TransformationDictionary>"
    question = '<SimplePredicate field="c" operator="lessOrEqual" value="0.5"/>'
    (found,) = answered(document(split(question), before=everywhere), tmp_path)
    np.testing.assert_array_equal(found[:, 0], A <= 0.25)


def test_predictions_are_rescaled(tmp_path: Path) -> None:
    target = '<Targets><Target field="y" rescaleFactor="10" rescaleConstant="-2"/></Targets>'
    (found,) = answered(document(regression(target + _TABLE)), tmp_path)
    np.testing.assert_allclose(found[:, 0], 10 * _SUM - 2, rtol=1e-4, atol=1e-5)


def test_what_changes_no_answer_is_passed_over(tmp_path: Path) -> None:
    beside = '<Extension name="x"><Other xmlns="urn:other"/></Extension><ModelStats/><ModelVerification/>'
    output = '<Output><OutputField name="p" feature="predictedValue"/></Output>'
    (found,) = answered(document(regression(beside + output + _TABLE)), tmp_path)
    np.testing.assert_allclose(found[:, 0], _SUM, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (np.zeros((2, 3), np.float32), "rows of 2 numbers"),
        (np.zeros(2, np.float32), "rows of 2 numbers"),
        (np.array([[np.nan, 0]], np.float32), "NaN"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: NDArray[np.float32], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        opened(document(regression(_TABLE)), tmp_path).answers({"input": rows})
