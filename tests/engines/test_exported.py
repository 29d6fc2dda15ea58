from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.importers import exported, model_file


def noisy(axis: str = "unk__12") -> onnx.ModelProto:
    """Return a model as exporters leave it: with notes, domains and names of their own."""
    shape = [axis, 2]
    then, otherwise = (
        helper.make_graph(
            [helper.make_node("Mul", ["x", factor], [f"{factor}_out"], doc_string=f"/home/{axis}/model.py")],
            factor,
            [],
            [helper.make_tensor_value_info(f"{factor}_out", TensorProto.FLOAT, shape)],
        )
        for factor in ("two", "three")
    )
    nodes = [
        helper.make_node("If", ["condition"], ["low"], then_branch=then, else_branch=otherwise),
        helper.make_node("Neg", ["x"], ["high"], name="Neg"),
    ]
    graph = helper.make_graph(
        nodes,
        f"graph of {axis}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("low", "high")],
        [
            numpy_helper.from_array(np.array(True), "condition"),
            numpy_helper.from_array(np.float32(2), "two"),
            numpy_helper.from_array(np.float32(3), "three"),
        ],
        value_info=[helper.make_tensor_value_info("between", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name=axis)
    model.graph.node[1].metadata_props.add(key="stack_trace", value=axis)
    model.metadata_props.add(key="made", value=axis)
    return model


def test_what_exporters_leave_differs_in_nothing_after() -> None:
    models = [noisy("unk__12"), noisy("s31")]
    for model in models:
        exported.settle(model, ["high", "low"])
    one, other = (model.SerializeToString(deterministic=True) for model in models)
    assert one == other
    assert b"/home" not in one


def test_the_settled_model_is_whole_and_answers(tmp_path: Path) -> None:
    model = noisy()
    exported.settle(model, ["high", "low"])
    exported.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    assert [tensor.name for tensor in model.graph.output] == ["high", "low"]
    assert {tensor.type.tensor_type.shape.dim[0].dim_param for tensor in model.graph.output} == {"batch"}
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    rows = np.array([[1, 2], [3, 4]], np.float32)
    high, low = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": rows})
    assert (high == -rows).all()
    assert (low == 2 * rows).all()


def test_weights_that_do_not_fit_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.arange(4096, dtype=np.float32).reshape(2, 2048)
    model = noisy()
    model.graph.node.add(op_type="MatMul", input=["low", "weights"], output=["wide"])
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    model.graph.output.append(helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["n", 2048]))
    monkeypatch.setattr(exported, "_LARGEST_BYTES", 4096)
    exported.settle(model, ["wide"])
    exported.save(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size >= weights.nbytes
    rows = np.array([[1, 2]], np.float32)
    (wide,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": rows})
    assert np.allclose(wide, 2 * rows @ weights)


def test_weights_beside_a_model_are_written_anew_and_as_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = noisy()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2048, np.float32), "weights"))
    monkeypatch.setattr(exported, "_LARGEST_BYTES", 4096)
    path, beside = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    exported.save(model, path)
    size_bytes = beside.stat().st_size
    exported.save(model_file.read(path), path)
    assert beside.stat().st_size == size_bytes
    assert beside.stat().st_mode == path.stat().st_mode
    (found,) = (each for each in model_file.read(path).graph.initializer if each.name == "weights")
    assert numpy_helper.to_array(found).tolist() == [1.0] * 2048
    monkeypatch.undo()
    exported.save(model_file.read(path), path)
    assert not beside.exists()


@pytest.mark.parametrize(
    ("names", "taken", "free"),
    [
        (["a", "b"], ["x"], ("a", "b")),
        (["x", "b"], ["x"], ("x_output", "b")),
        (["x", "x_output"], ["x"], ("x_output", "x_output_output")),
        (["a", "a", "a"], [], ("a", "a_output", "a_output_2")),
    ],
)
def test_names_that_are_taken_are_changed(names: list[str], taken: list[str], free: tuple[str, ...]) -> None:
    assert exported.unlike(names, taken) == free
