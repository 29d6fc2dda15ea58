"""Models whose files do not tell the rank of a tensor."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx_models import Models

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import DeclarationError
from headrace_engines.load import load
from headrace_engines.spec import ANY
from headrace_engines.steps import StepEngine

UNTOLD = "the model's file does not tell its shape; say its `dims` in config.pbtxt"


@pytest.fixture
def folder(models: Models, tmp_path: Path) -> Path:
    """A version whose input and output have no shape."""
    shutil.copy(models.unary("Relu", TensorProto.FLOAT, None, None), tmp_path / "model.onnx")
    return tmp_path


def said(name: str, *dims: int) -> tuple[DeclaredTensor, ...]:
    return (DeclaredTensor(name, None, dims),)


@pytest.mark.parametrize("declaration", [Declaration(), Declaration((DeclaredTensor("x", None, None),))])
def test_without_a_shape_the_input_is_named(folder: Path, declaration: Declaration) -> None:
    with pytest.raises(DeclarationError) as refused:
        load(folder, declaration=declaration)
    (difference,) = refused.value.differences
    assert (difference.setting, difference.tensor) == ("input", "x")
    assert difference.text.startswith(UNTOLD)


@pytest.mark.parametrize(
    ("declaration", "taken", "given", "most"),
    [
        (Declaration(said("x", 4), max_batch_size=8), (4,), (ANY,), 8),
        (Declaration(said("x", 4), said("y", 4), max_batch_size=8), (4,), (4,), 8),
        (Declaration(said("x", ANY, 4), max_batch_size=0), (ANY, 4), (ANY, ANY), 0),
        (Declaration(said("x", ANY, 4), said("y", ANY, 4), max_batch_size=0), (ANY, 4), (ANY, 4), 0),
        (Declaration(said("x", 2, 4)), (2, 4), (ANY, ANY), 0),
    ],
)
def test_the_declared_shape_is_served(
    folder: Path, declaration: Declaration, taken: tuple[int, ...], given: tuple[int, ...], most: int
) -> None:
    engine = load(folder, declaration=declaration).engine
    assert not isinstance(engine, StepEngine)
    assert engine.spec.max_batch_size == most
    assert [tensor.dims for tensor in (*engine.spec.inputs, *engine.spec.outputs)] == [taken, given]
    rows = -np.ones((2, 4), np.float32)
    assert np.array_equal(engine.run([rows])[0], np.zeros((2, 4)))
    engine.close()


def test_a_declared_output_is_held_against_an_execution(folder: Path) -> None:
    declaration = Declaration(said("x", 4), said("y", 5), max_batch_size=8)
    with pytest.raises(DeclarationError, match=r"the model answers \[4\], the configuration says \[5\]"):
        load(folder, declaration=declaration)


def test_a_scalar_is_none_of_them(models: Models, tmp_path: Path) -> None:
    shutil.copy(models.unary("Relu", TensorProto.FLOAT, [], []), tmp_path / "model.onnx")
    loaded = load(tmp_path)
    assert [tensor.dims for tensor in (*loaded.engine.spec.inputs, *loaded.engine.spec.outputs)] == [(), ()]
    loaded.engine.close()
    with pytest.raises(DeclarationError, match=r"the model has FP32 \[\], the configuration says FP32 \[3\]"):
        load(tmp_path, declaration=Declaration(said("x", 3)))
