"""What a PMML document is refused for: each text names the element and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from pmml_documents import document, regression, split, tree, written

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.pmml import open_source

_TABLE = '<RegressionTable intercept="1"><NumericPredictor name="a" coefficient="2"/></RegressionTable>'
_WHOLE = document(regression(_TABLE))
_ASKED = '<SimplePredicate field="a" operator="lessOrEqual" value="1"/>'
_CLASSES = {"functionName": "classification"}
_TABLES = "".join(f'<RegressionTable intercept="1" targetCategory="{name}"/>' for name in "xyz")


def _derived(inside: str, kind: str = "double") -> str:
    field = f'<DerivedField name="c" optype="continuous" dataType="{kind}">{inside}</DerivedField>'
    return document(regression(f"<LocalTransformations>{field}</LocalTransformations>{_TABLE}"))


def _inside_a(inside: str) -> str:
    """A document whose first field has this inside."""
    field = '<DataField name="a" optype="continuous" dataType="double"'
    return _WHOLE.replace(f"{field}/>", f"{field}>{inside}</DataField>")


UNSUPPORTED = {
    "another model": (
        _WHOLE.replace("RegressionModel", "SupportVectorMachineModel"),
        "<SupportVectorMachineModel> in line 3 is not read; what is read of PMML: RegressionModel",
    ),
    "a term that is none": (
        document(regression(_TABLE.replace("NumericPredictor", "CategoricalPredictor"))),
        "<CategoricalPredictor> in line 3 is not read",
    ),
    "two models": (document(regression(_TABLE) + regression(_TABLE)), "the document holds 2 models"),
    "no model": (document(""), "the document holds 0 models"),
    "an old version": (_WHOLE.replace("PMML-4_4", "PMML-3_2"), "PMML-3_2: versions 4.0 to 4.4 are read"),
    "an old version without a namespace": (
        _WHOLE.replace('xmlns="http://www.dmg.org/PMML-4_4" version="4.4"', 'version="3.2"'),
        "version '3.2': 4.0 to 4.4 are read",
    ),
    "another task": (
        document(regression(_TABLE, functionName="clustering")),
        "functionName 'clustering' is not read; regression, classification are",
    ),
    "not to be asked": (document(regression(_TABLE, isScorable="false")), "isScorable"),
    "a field of text": (document(regression(_TABLE), field_type="string"), "the field 'a' is of type string"),
    "outliers": (
        _WHOLE.replace('<MiningField name="a"/>', '<MiningField name="a" outliers="asExtremeValues"/>'),
        "outliers 'asExtremeValues' is not read",
    ),
    "an attribute of a field": (
        _WHOLE.replace('<DataField name="a"', '<DataField name="a" taxonomy="t"'), "its attribute 'taxonomy'",
    ),
    "an attribute of a schema": (
        _WHOLE.replace('<MiningField name="a"', '<MiningField name="a" weight="2"'), "its attribute 'weight'",
    ),
    "a field that is cyclic": (
        _WHOLE.replace('<DataField name="a"', '<DataField name="a" isCyclic="1"'), "isCyclic '1' is not read",
    ),
    "values that are not valid": (
        _inside_a('<Interval closure="closedClosed" leftMargin="0" rightMargin="10"/>'),
        "<Interval> in line 2: what becomes of values of 'a' that are not valid",
    ),
    "values that are replaced as they are not valid": (
        _inside_a('<Value value="7" property="invalid"/>').replace(
            '<MiningField name="a"', '<MiningField name="a" invalidValueTreatment="asValue"'
        ),
        "invalidValueTreatment 'asValue'",
    ),
    "a code without a replacement": (
        _inside_a('<Value value="-999" property="missing"/>'), "-999 stands for a missing value",
    ),
    "nothing to ask": (
        _WHOLE.replace('<MiningField name="a"/><MiningField name="b"/>', ""), "no active field",
    ),
    "a normalization": (document(regression(_TABLE, normalizationMethod="cauchit")), "'cauchit' is not read"),
    "logit of three": (
        document(regression(_TABLES, normalizationMethod="logit", **_CLASSES), classes=("x", "y", "z")),
        "logit of 3 classes",
    ),
    "a broken exponent": (
        document(regression(_TABLE.replace("coeff", 'exponent="0.5" coeff'))), "exponent 0.5",
    ),
    "a large exponent": (
        document(regression(_TABLE.replace("coeff", 'exponent="1e300" coeff'))), "0 to 64 are",
    ),
    "one class": (document(regression(_TABLES, **_CLASSES), classes=("x",)), "has 1 classes"),
    "a clipped target": (
        document(regression(f'<Targets><Target field="y" min="0"/></Targets>{_TABLE}')), "min is not read",
    ),
    "a function": (
        _derived('<Apply function="ln"><FieldRef field="a"/></Apply>'), "the function 'ln' is not read",
    ),
    "a derived text": (_derived('<FieldRef field="a"/>', "string"), "the field 'c' is no number"),
    "another expression": (_derived('<Discretize field="a"/>'), "<Discretize> in line 3 is not read"),
    "a bent line": (
        _derived(
            '<NormContinuous field="a"><LinearNorm orig="0" norm="0"/><LinearNorm orig="1" norm="1"/>'
            '<LinearNorm orig="2" norm="9"/></NormContinuous>'
        ),
        "3 points",
    ),
    "a root that asks": (
        document(tree("").replace("<True/>", _ASKED)), "its outermost Node is not for every row",
    ),
    "an operator": (document(split('<CompoundPredicate booleanOperator="xor"><True/></CompoundPredicate>')),
                    "booleanOperator 'xor' is not read"),
    "deep nesting": (
        document(tree('<Node score="1"><True/>' * 1200 + "</Node>" * 1200)), "nested too deeply",
    ),
}  # fmt: skip

DAMAGED = {
    "cut short": (_WHOLE[:-30], "no well-formed XML"),
    "a document type": (
        _WHOLE.replace("<PMML", '<!DOCTYPE PMML [<!ENTITY a "aaaa">]><PMML', 1), "declares a document type",
    ),
    "no number": (_WHOLE.replace('coefficient="2"', 'coefficient="two"'), "coefficient 'two' is no finite"),
    "an endless number": (_WHOLE.replace('coefficient="2"', 'coefficient="INF"'), "'INF' is no finite"),
    "no coefficient": (_WHOLE.replace('coefficient="2"', ""), "it has no attribute 'coefficient'"),
    "no such field": (_WHOLE.replace('Predictor name="a"', 'Predictor name="q"'), "there is no field 'q'"),
    "a field that is not listed": (
        _WHOLE.replace('MiningField name="a"', 'MiningField name="q"'), "'q' of the MiningSchema has no",
    ),
    "two tables for a number": (document(regression(_TABLE * 2)), "2 tables for one number"),
    "a class without a table": (
        document(regression(_TABLES, **_CLASSES), classes=("x", "y", "z", "w")), "4 classes needs one",
    ),
    "a class that is none": (
        document(regression(_TABLES, **_CLASSES), classes=("x", "y", "w")), "the target has no class 'z'",
    ),
    "a leaf without a score": (document(tree("<Node><True/></Node>")), "a leaf without a score"),
    "no predicate": (document(tree('<Node score="1"/>')), "it has 0 of the one"),
    "an empty compound": (
        document(split('<CompoundPredicate booleanOperator="and"/>')), "it has no parts",
    ),
    "an expression of three": (
        _derived('<Apply function="+">' + '<FieldRef field="a"/>' * 3 + "</Apply>"), "has 3 arguments",
    ),
    "a field twice": (
        _WHOLE.replace('MiningField name="b"', 'MiningField name="a"'), "a field is listed twice",
    ),
    "an open quotation": (
        document(
            split(
                '<SimpleSetPredicate field="a" booleanOperator="isIn"><Array type="int">1 "2</Array>'
                "</SimpleSetPredicate>"
            )
        ),
        "<Array> in line 3: no closing quotation",
    ),
    "two expressions": (
        _derived('<FieldRef field="a"/><FieldRef field="b"/>'), "it has 2 of the one",
    ),
    "no expression": (_derived(""), "it has 0 of the one"),
    "no schema": (_WHOLE.replace("MiningSchema", "Extension"), "it has 0 of the one MiningSchema"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_read_is_named(case: str, tmp_path: Path) -> None:
    text, told = UNSUPPORTED[case]
    with pytest.raises(UnsupportedModelError) as refused:
        open_source(written(text, tmp_path), ImportOptions())
    assert str(refused.value).startswith("model.pmml: ")
    assert told in str(refused.value)


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_named(case: str, tmp_path: Path) -> None:
    text, told = DAMAGED[case]
    with pytest.raises(ModelFileError) as refused:
        open_source(written(text, tmp_path), ImportOptions())
    assert str(refused.value).startswith("model.pmml: ")
    assert told in str(refused.value)


def test_a_tree_without_an_answer_is_not_written(tmp_path: Path) -> None:
    importer = open_source(
        written(document(tree(f'<Node score="1">{_ASKED}</Node>')), tmp_path), ImportOptions()
    )
    with pytest.raises(UnsupportedModelError, match="give its last child <True/>"):
        importer.convert(tmp_path / "model.onnx")


def test_options_for_another_input_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="the only one is 'input'"):
        open_source(written(_WHOLE, tmp_path), ImportOptions(input_shapes={"x": (2,)}))
