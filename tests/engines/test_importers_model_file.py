from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headrace_engines import imported
from headrace_engines.errors import ModelFileError
from headrace_engines.imported import FileOptions
from headrace_engines.importers import model_file

_FILES = ["constant", "function", "initializer", "inner", "list", "nested/constant"]


def _outside(file: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), file)
    onnx.external_data_helper.set_external_data(tensor, file)
    tensor.ClearField("raw_data")
    return tensor


def _constant(file: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [f"{file}_out"], value=_outside(file))


def _branch(*nodes: onnx.NodeProto, weights: tuple[str, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [], [_outside(file) for file in weights])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model with weights in files beside it, in each place where ONNX allows them."""
    inner = helper.make_node(
        "If", ["c"], ["z"], then_branch=_branch(weights=("inner",)), else_branch=_branch()
    )
    outer = helper.make_node(
        "If",
        ["c"],
        ["y"],
        then_branch=_branch(inner, _constant("nested/constant")),
        else_branch=_branch(),
    )
    listed = helper.make_node("Listing", [], ["l"], domain="own", tensors=[_outside("list")])
    listed.attribute.append(helper.make_attribute("graphs", [_branch()]))
    function = helper.make_function(
        "own", "F", [], ["function_out"], [_constant("function")], [helper.make_opsetid("", 17)]
    )
    asked = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(
        [_constant("constant"), outer, listed], "net", [asked], [], [_outside("initializer")]
    )
    onnx.save(helper.make_model(graph, functions=[function]), tmp_path / "model.onnx")
    for file in _FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(bytes(8))
    return tmp_path / "model.onnx"


def test_files_of_weights_are_found_wherever_a_model_names_them(path: Path) -> None:
    assert model_file.weight_files(onnx.load(path, load_external_data=False)) == _FILES


@pytest.mark.parametrize("file", _FILES)
def test_other_weights_make_another_build(path: Path, file: str) -> None:
    before = imported.source(path, FileOptions()).recipe
    (path.parent / file).write_bytes(b"\1" * 8)
    assert imported.source(path, FileOptions()).recipe != before


@pytest.mark.parametrize("file", ["constant", "inner", "nested/constant"])
def test_weights_that_are_not_there_are_named(path: Path, file: str) -> None:
    (path.parent / file).unlink()
    with pytest.raises(ModelFileError, match=f"its weights are in '{file}', which is not there"):
        model_file.read(path)
