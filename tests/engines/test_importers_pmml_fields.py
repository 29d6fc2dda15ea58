"""What PMML documents say of their fields: what is missing, what is valid, and of which type they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from classical_models import assert_faithful
from ml_models import answers
from numpy.typing import NDArray
from pmml_documents import document, regression, split, tree, written

from headrace_engines.errors import InputError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.pmml import PmmlImporter, open_source

_TABLE = '<RegressionTable intercept="1"><NumericPredictor name="a" coefficient="2"/></RegressionTable>'
_FIELD = '<DataField name="a" optype="continuous" dataType="{kind}"'


def _told(model: str, inside: str = "", schema: str = "", kind: str = "double", **told: str) -> str:
    """A document of one field, `a`, with this inside and with these attributes in the schema."""
    text = document(model, fields=("a",), field_type=kind, **told)  # type: ignore[arg-type]
    field = _FIELD.format(kind=kind)
    text = text.replace(f"{field}/>", f"{field}>{inside}</DataField>")
    return text.replace('<MiningField name="a"/>', f'<MiningField name="a" {schema}/>')


def _answered(text: str, folder: Path, values: list[float]) -> tuple[NDArray[np.generic], ...]:
    importer = _opened(text, folder)
    rows = {"input": np.array(values, np.float32).reshape(-1, 1)}
    assert_faithful(importer, folder, rows)
    return importer.answers(rows)


def _opened(text: str, folder: Path) -> PmmlImporter:
    return open_source(written(text, folder), ImportOptions())


def test_what_is_missing_is_replaced(tmp_path: Path) -> None:
    codes = '<Value value="-999" property="missing"/><Value value="-9.1" property="missing"/>'
    text = _told(regression(_TABLE), codes, 'missingValueReplacement="3"')
    (found,) = _answered(text, tmp_path, [-999, np.nan, 1, -9.1, 0])
    np.testing.assert_allclose(found[:, 0], [7, 7, 3, 1 - 18.2, 1], rtol=1e-6)


def test_a_code_of_a_float_is_rounded_as_the_values_are(tmp_path: Path) -> None:
    codes = '<Value value="-9.1" property="missing"/>'
    text = _told(regression(_TABLE), codes, 'missingValueReplacement="3"', kind="float")
    (found,) = _answered(text, tmp_path, [-9.1, 0])
    np.testing.assert_allclose(found[:, 0], [7, 1])


def test_a_field_without_a_replacement_takes_nothing_missing(tmp_path: Path) -> None:
    text = document(regression(_TABLE)).replace(
        '<MiningField name="b"/>', '<MiningField name="b" missingValueReplacement="1"/>'
    )
    with pytest.raises(InputError, match="missing"):
        _opened(text, tmp_path).answers({"input": np.array([[np.nan, 0]], np.float32)})


def test_values_that_are_not_valid_are_taken_where_the_document_says_so(tmp_path: Path) -> None:
    limits = '<Interval closure="closedClosed" leftMargin="0" rightMargin="10"/>'
    (found,) = _answered(_told(regression(_TABLE), limits, 'invalidValueTreatment="asIs"'), tmp_path, [50, 1])
    np.testing.assert_allclose(found[:, 0], [101, 3])


@pytest.mark.parametrize(("kind", "expected"), [("double", 0), ("float", 1)])
@pytest.mark.parametrize(
    "predicate",
    [
        '<SimplePredicate field="a" operator="lessOrEqual" value="0.1"/>',
        '<SimplePredicate field="a" operator="equal" value="0.1"/>',
        '<SimpleSetPredicate field="a" booleanOperator="isIn"><Array type="real">7 0.1</Array>'
        "</SimpleSetPredicate>",
    ],
)
def test_what_a_float_is_compared_with_is_a_float(
    kind: str, expected: int, predicate: str, tmp_path: Path
) -> None:
    (found,) = _answered(_told(split(predicate), kind=kind), tmp_path, [0.1, 0.2])
    assert found[:, 0].tolist() == [expected, 0]


def test_values_with_a_property_are_no_classes(tmp_path: Path) -> None:
    nodes = (
        '<Node score="x"><SimplePredicate field="a" operator="lessOrEqual" value="1"/></Node>'
        '<Node score="y"><True/></Node>'
    )
    text = _told(tree(nodes, functionName="classification"), classes=("x", "y"))  # type: ignore[arg-type]
    text = text.replace('score="-1"', 'score="x"').replace(
        '<Value value="x"/>', '<Value value="?" property="missing"/><Value value="x"/>'
    )
    last = '<Value value="z" property="invalid"/></DataField></D'
    importer = _opened(text.replace("</DataField></D", last), tmp_path)
    assert importer.facts["classes"] == '["x", "y"]'
    (shares,) = importer.answers({"input": np.array([[1], [2]], np.float32)})
    assert shares.tolist() == [[1, 0], [0, 1]]


def test_a_field_that_is_always_the_same_is_so_for_infinite_values_too(tmp_path: Path) -> None:
    constant = "<Constant>5</Constant>"
    field = f'<DerivedField name="k" optype="continuous" dataType="double">{constant}</DerivedField>'
    text = _told(split('<SimplePredicate field="k" operator="greaterThan" value="4"/>'))
    text = text.replace("<Node", f"<LocalTransformations>{field}</LocalTransformations><Node", 1)
    (found,) = _answered(text, tmp_path, [1, 2, np.inf])
    assert found[:, 0].tolist() == [1, 1, 1]


def test_a_field_that_a_sum_does_not_name_leaves_it_alone(tmp_path: Path) -> None:
    rows = {"input": np.array([[1, np.inf], [2, -1e30], [3, 4]], np.float32)}
    importer = _opened(document(regression(_TABLE)), tmp_path)
    assert_faithful(importer, tmp_path, rows)
    np.testing.assert_array_equal(importer.answers(rows)[0][:, 0], [3, 5, 7])


def test_a_class_whose_sum_does_not_name_a_field_leaves_it_alone(tmp_path: Path) -> None:
    tables = "".join(
        f'<RegressionTable intercept="{start}" targetCategory="{name}">{terms}</RegressionTable>'
        for name, start, terms in (
            ("p", 1, '<NumericPredictor name="b" coefficient="2"/>'),
            ("q", 2, '<NumericPredictor name="a" coefficient="3"/>'),
            ("r", 3, ""),
            ("s", 4, ""),
        )
    )
    model = regression(tables, functionName="classification", normalizationMethod="none")
    importer = _opened(document(model, classes=("s", "r", "q", "p")), tmp_path)
    rows = {"input": np.array([[1, np.inf], [2, 5]], np.float32)}
    importer.convert(tmp_path / "model.onnx")
    (found,) = answers(onnx.load(tmp_path / "model.onnx"), rows["input"])
    np.testing.assert_array_equal(found, [[-np.inf, 3, 5, np.inf], [1 - 8 - 11 - 3, 3, 8, 11]])
    np.testing.assert_array_equal(found, importer.answers(rows)[0])
