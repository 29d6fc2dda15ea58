"""PMML's models of several models: forests, votes and boosted chains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classical_models import assert_faithful
from ml_models import operators
from numpy.typing import NDArray
from pmml_documents import document, written

from headrace_engines.errors import EngineError, ModelFileError, UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.pmml import open_source

ROWS = np.random.default_rng(4).normal(size=(60, 2)).astype(np.float32)
A, B = ROWS.astype(np.float64).T
_ASKS = {
    "a": '<SimplePredicate field="a" operator="lessOrEqual" value="0.2"/>',
    "b": '<SimplePredicate field="b" operator="greaterThan" value="-0.1"/>',
}
_YES = {"a": A <= 0.2, "b": B > -0.1}


def stump(field: str, yes: float, no: float, inside: str = "") -> str:
    return (
        f'<TreeModel functionName="regression">MINING{inside}<Node><True/><Node score="{yes}">{_ASKS[field]}'
        f'</Node><Node score="{no}"><True/></Node></Node></TreeModel>'
    )


def chooser(field: str, yes: str, no: str) -> str:
    return stump(field, 0, 0).replace("regression", "classification").replace('"0"', f'"{yes}"', 1).replace(
        'score="0"', f'score="{no}"'
    )  # fmt: skip


def line(field: str, inside: str = "") -> str:
    return (
        f'<RegressionModel functionName="regression">MINING{inside}<RegressionTable intercept="1">'
        f'<NumericPredictor name="{field}" coefficient="2"/></RegressionTable></RegressionModel>'
    )


def mining(
    method: str,
    models: Sequence[str],
    task: str = "regression",
    weights: Sequence[float] = (),
    inside: str = "",
) -> str:
    told = [f' weight="{weight}"' for weight in weights] or [""] * len(models)
    listed = "".join(
        f"<Segment{weight}><True/>{model}</Segment>" for weight, model in zip(told, models, strict=True)
    )
    return (
        f'<MiningModel functionName="{task}">MINING{inside}'
        f'<Segmentation multipleModelMethod="{method}">{listed}</Segmentation></MiningModel>'
    )


def answered(text: str, folder: Path) -> tuple[NDArray[Any], ...]:
    importer = open_source(written(text, folder), ImportOptions())
    assert_faithful(importer, folder, {"input": ROWS})
    return importer.answers({"input": ROWS})


_FIRST = np.where(_YES["a"], 1, 5)
_SECOND = np.where(_YES["b"], -2, 4)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("sum", _FIRST + _SECOND + 2 * A + 1),
        ("average", (_FIRST + _SECOND + 2 * A + 1) / 3),
        ("weightedAverage", (3 * _FIRST + _SECOND + 2 * (2 * A + 1)) / 6),
    ],
)
def test_numbers_are_added_up(method: str, expected: NDArray[np.float64], tmp_path: Path) -> None:
    models = [stump("a", 1, 5), stump("b", -2, 4), line("a")]
    (found,) = answered(document(mining(method, models, weights=(3, 1, 2))), tmp_path)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_trees_become_one_operator(tmp_path: Path) -> None:
    text = document(mining("sum", [stump("a", 1, 5), stump("b", -2, 4), stump("a", 0, 1)]))
    found = assert_faithful(open_source(written(text, tmp_path), ImportOptions()), tmp_path, {"input": ROWS})
    assert operators(found["cpu"]) == ["ai.onnx.ml.TreeEnsembleRegressor"]


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("majorityVote", ()),
        ("weightedMajorityVote", (1, 5, 1)),
        ("average", ()),
        ("weightedAverage", (1, 5, 1)),
    ],
)
def test_classes_are_voted_for(method: str, weights: Sequence[float], tmp_path: Path) -> None:
    models = [chooser("a", "1", "2"), chooser("b", "1", "2"), chooser("a", "2", "3")]
    text = document(
        mining(method, models, "classification", weights), classes=("1", "2", "3"), class_type="integer"
    )
    label, shares = answered(text, tmp_path)
    votes = np.zeros((60, 3))
    shared = np.array(weights or (1, 1, 1)) / sum(weights or (1, 1, 1))
    for share, (field, yes, no) in zip(shared, [("a", 0, 1), ("b", 0, 1), ("a", 1, 2)], strict=True):
        votes[np.arange(60), np.where(_YES[field], yes, no)] += share
    np.testing.assert_allclose(shares, votes, rtol=1e-5, atol=1e-6)
    assert (votes[np.arange(60), label - 1] >= votes.max(axis=1) - 1e-6).all()


def test_of_classes_with_as_many_votes_the_first_is_told(tmp_path: Path) -> None:
    models = [chooser("a", name, name) for name in ("3", "2", "1") * 7]
    text = document(
        mining("majorityVote", models, "classification"), classes=("1", "2", "3"), class_type="integer"
    )
    label, shares = answered(text, tmp_path)
    assert (shares == shares[:, :1]).all()
    assert (label == 1).all()


def _output(*fields: str) -> str:
    return f"<Output>{''.join(fields)}</Output>"


_SCORE = '<OutputField name="score" feature="predictedValue" optype="continuous" dataType="double"/>'
_TWICE = (
    '<OutputField name="twice" feature="transformedValue"><Apply function="*"><Constant>2</Constant>'
    '<FieldRef field="score"/></Apply></OutputField>'
)
_LOGIT = (
    '<RegressionModel functionName="classification" normalizationMethod="logit">MINING'
    '<RegressionTable intercept="0.5" targetCategory="1"><NumericPredictor name="FIELD" coefficient="1"/>'
    '</RegressionTable><RegressionTable intercept="0" targetCategory="0"/></RegressionModel>'
)


@pytest.mark.parametrize(("field", "factor"), [("score", 1), ("twice", 2)])
def test_boosted_trees_feed_a_regression(field: str, factor: float, tmp_path: Path) -> None:
    rescaled = '<Targets><Target rescaleFactor="0.1" rescaleConstant="0.3"/></Targets>'
    trees = mining("sum", [stump("a", 1, 5), stump("b", -2, 4)], inside=_output(_SCORE, _TWICE) + rescaled)
    chain = mining("modelChain", [trees, _LOGIT.replace("FIELD", field)], "classification")
    label, shares = answered(document(chain, classes=("0", "1"), class_type="integer"), tmp_path)
    score = factor * (0.1 * (_FIRST + _SECOND) + 0.3) + 0.5
    np.testing.assert_allclose(shares[:, 1], 1 / (1 + np.exp(-score)), rtol=1e-5)
    np.testing.assert_array_equal(label, score > 0)


def test_a_regression_is_asked_with_probabilities(tmp_path: Path) -> None:
    share = '<OutputField name="share" feature="probability" value="1"/>'
    first = _LOGIT.replace("FIELD", "a").replace("MINING", "MINING" + _output(share))
    chain = mining("modelChain", [first, _LOGIT.replace("FIELD", "share")], "classification")
    _, shares = answered(document(chain, classes=("0", "1"), class_type="integer"), tmp_path)
    once = 1 / (1 + np.exp(-A - 0.5))
    np.testing.assert_allclose(shares[:, 1], 1 / (1 + np.exp(-once - 0.5)), rtol=1e-5)


_REFUSED: dict[str, tuple[str, type[EngineError], str]] = {
    "another method": (
        document(mining("median", [line("a")])), UnsupportedModelError, "'median' is not read",
    ),
    "segments of some rows": (
        document(mining("sum", [line("a")]).replace("<True/>", _ASKS["a"])),
        UnsupportedModelError,
        "it is not for every row",
    ),
    "segments of no row": (
        document(mining("sum", [line("a")]).replace("<True/>", "<False/>")),
        UnsupportedModelError,
        "it is not for every row",
    ),
    "no segments": (document(mining("sum", [])), ModelFileError, "it has no segments"),
    "weights of nothing": (
        document(mining("weightedAverage", [line("a")], weights=(0,))), ModelFileError, "come to nothing",
    ),
    "votes of numbers": (
        document(mining("majorityVote", [line("a")])), UnsupportedModelError, "majorityVote of numbers",
    ),
    "a sum of classes": (
        document(mining("sum", [chooser("a", "0", "1")], "classification"), classes=("0", "1")),
        UnsupportedModelError,
        "the sum of classes",
    ),
    "classes and numbers": (
        document(mining("average", [line("a")], "classification"), classes=("0", "1")),
        ModelFileError,
        "some of its segments classify",
    ),
    "classes for numbers": (
        document(mining("average", [chooser("a", "0", "1")])),
        UnsupportedModelError,
        "it classifies for a model that predicts a number",
    ),
    "a field that no model gives": (
        document(mining("modelChain", [line("a"), line("score")])), ModelFileError, "no field 'score'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", _REFUSED)
def test_what_is_not_read_is_named(case: str, tmp_path: Path) -> None:
    text, kind, told = _REFUSED[case]
    with pytest.raises(kind) as refused:
        open_source(written(text, tmp_path), ImportOptions())
    assert told in str(refused.value)
