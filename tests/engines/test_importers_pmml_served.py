"""PMML documents from the file to the client's answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits import serving
from numpy.typing import NDArray
from pmml_documents import document, regression, split, written

from headrace import Client
from headrace_cli.main import run

ROWS = np.random.default_rng(8).normal(size=(20, 2)).astype(np.float32)
_SUM = (
    '<RegressionTable intercept="1"><NumericPredictor name="a" coefficient="2"/>'
    '<NumericPredictor name="b" coefficient="-0.5"/></RegressionTable>'
)
_QUESTION = '<SimplePredicate field="a" operator="lessOrEqual" value="0.1"/>'
_DOCUMENTS = {"sum": document(regression(_SUM)), "tree": document(split(_QUESTION))}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pmml")
    for name, text in _DOCUMENTS.items():
        file = written(text, folder).rename(folder / f"{name}.pmml")
        arguments = ["build", str(file), "--into", str(folder / "models"), "--cache", str(folder / "caches")]
        assert run(arguments) == 0
    with serving(folder / "models", folder) as where:
        yield where


@pytest.mark.parametrize(
    ("name", "expected"), [("sum", ROWS @ np.float32([2, -0.5]) + 1), ("tree", ROWS[:, 0] <= 0.1)]
)
def test_documents_are_built_and_served(name: str, expected: NDArray[Any], address: str) -> None:
    with Client(address) as client:
        found = client.infer(name, {"input": ROWS})
    np.testing.assert_allclose(found["prediction"][:, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_document_that_is_not_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = document("<SupportVectorMachineModel functionName='regression'>MINING</SupportVectorMachineModel>")
    file = written(text, tmp_path)
    arguments = ["build", str(file), "--into", str(tmp_path / "models"), "--cache", str(tmp_path / "caches")]
    assert run(arguments) == 2
    assert "<SupportVectorMachineModel> in line 3 is not read" in capsys.readouterr().err
