"""Models that are loaded as their owner declared them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import DeclarationError, ModelFileError, UnsupportedModelError
from headrace_engines.load import load
from headrace_engines.steps import StepEngine

FP32 = np.dtype(np.float32)
PROGRAM = """
from headrace_engines.python_model import Tensor

class Model:
    inputs = [Tensor("x", "FP32", [2])]
    outputs = [Tensor("y", "FP32", [2])]
    max_batch_size = 4

    def execute(self, batch):
        return {"y": batch["x"]}
"""


def version(tmp_path: Path, model: Path | str, file: str = "model.onnx") -> Path:
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, Path):
        shutil.copy(model, folder / file)
    else:
        (folder / file).write_text(model)
    return folder


def test_a_declared_batch_size_stands_before_the_usual_one(models, tmp_path) -> None:
    folder = version(tmp_path, models.mlp())
    for declaration, expected in (
        (Declaration(), 8),
        (Declaration(max_batch_size=16), 16),
        (Declaration(max_batch_size=0), 0),
    ):
        loaded = load(folder, max_batch_size=8, declaration=declaration)
        assert loaded.engine.spec.max_batch_size == expected
        loaded.engine.close()


def test_narrowed_rows_are_staged(models, tmp_path) -> None:
    folder = version(tmp_path, models.unary("Identity", TensorProto.FLOAT, ("N", "L"), ("N", "L")))
    declaration = Declaration(
        (DeclaredTensor("x", FP32, (5,)),), (DeclaredTensor("y", FP32, (5,)),), max_batch_size=4
    )
    loaded = load(folder, declaration=declaration)
    assert loaded.engine.spec.is_staged
    (buffer,) = loaded.engine.inputs(0)
    assert buffer.shape == (4, 5)
    assert loaded.held.host_bytes == (folder / "model.onnx").stat().st_size + 2 * 4 * 5 * 4
    loaded.engine.close()


def test_an_output_that_is_answered_otherwise_is_refused(models, tmp_path) -> None:
    folder = version(tmp_path, models.unary("Identity", TensorProto.FLOAT, ("N", "L"), ("N", "L")))
    declaration = Declaration((DeclaredTensor("x", FP32, (5,)),), (DeclaredTensor("y", FP32, (6,)),))
    with pytest.raises(
        ModelFileError, match=r"output 'y': the model answers \[5\], the configuration says \[6\]"
    ):
        load(folder, declaration=declaration)


def test_reshaped_tensors_are_what_callers_see(models, tmp_path) -> None:
    declaration = Declaration((DeclaredTensor("x", FP32, (2, 2), (4,)),))
    loaded = load(version(tmp_path, models.mlp()), declaration=declaration)
    assert loaded.engine.spec.inputs[0].dims == (2, 2)
    assert loaded.engine.run([np.zeros((1, 2, 2), np.float32)])[0].shape == (1, 3)
    loaded.engine.close()


def test_an_input_that_has_a_value_in_the_file_may_be_left_out(models, tmp_path) -> None:
    path = models.save(
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        {"x": (TensorProto.FLOAT, (2,)), "bias": (TensorProto.FLOAT, (2,))},
        {"y": (TensorProto.FLOAT, (2,))},
        {"bias": np.array([10, 20], np.float32)},
    )
    names = (DeclaredTensor("x", None, None), DeclaredTensor("bias", None, None, is_optional=True))
    engine = load(version(tmp_path, path), declaration=Declaration(names)).engine
    assert [tensor.is_optional for tensor in engine.spec.inputs] == [False, True]
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(engine.run([x, None])[0], [11, 22])
    np.testing.assert_array_equal(engine.run([x, x])[0], [2, 4])
    engine.close()
    plain = load(tmp_path / "m" / "1").engine
    assert [tensor.name for tensor in plain.spec.inputs] == ["x"]
    plain.close()


def test_a_declared_file_is_the_only_one_looked_at(models, tmp_path) -> None:
    folder = version(tmp_path, models.mlp())
    version(tmp_path, models.mlp((5, 2)), "weights.onnx")
    loaded = load(folder, declaration=Declaration(file="weights.onnx"))
    assert (loaded.artefact, loaded.engine.spec.inputs[0].dims) == ("weights.onnx", (5,))
    loaded.engine.close()
    with pytest.raises(ModelFileError, match=r"found model.onnx, weights.onnx; expected other.onnx"):
        load(folder, declaration=Declaration(file="other.onnx"))


def test_threads_are_taken_from_the_parameters(models, tmp_path) -> None:
    folder = version(tmp_path, models.mlp((64, 64, 3)))
    for threads in ("1", "2", "0"):
        loaded = load(folder, declaration=Declaration(parameters={"intra_op_thread_count": threads}))
        options = loaded.engine._session.get_session_options()
        assert options.intra_op_num_threads == int(threads)
        loaded.engine.close()


@pytest.mark.parametrize(
    ("declaration", "file"),
    [
        (Declaration(), "model.py"),
        (Declaration(platform="python"), "model.py"),
        (Declaration(platform="python", file="mine.py"), "mine.py"),
        (Declaration(file="mine.py"), "mine.py"),
    ],
)
def test_a_program_is_executed_where_that_is_allowed(tmp_path, declaration, file) -> None:
    folder = version(tmp_path, PROGRAM, file)
    with pytest.raises(UnsupportedModelError, match=f"{file}: .* only with --allow-python-models"):
        load(folder, declaration=declaration)
    loaded = load(folder, declaration=declaration, allow_python=True)
    assert isinstance(loaded.engine, StepEngine)
    assert (loaded.artefact, loaded.engine.spec.max_batch_size) == (file, 4)
    assert loaded.held.host_bytes >= len(PROGRAM)
    loaded.engine.close()


def test_an_onnx_file_goes_before_a_program_unless_that_is_named(models, tmp_path) -> None:
    folder = version(tmp_path, models.mlp())
    version(tmp_path, PROGRAM, "model.py")
    loaded = load(folder, allow_python=True)
    assert loaded.artefact == "model.onnx"
    assert "model.py: not needed: the model is in another file" in loaded.why
    loaded.engine.close()
    loaded = load(folder, allow_python=True, declaration=Declaration(platform="python"))
    assert loaded.artefact == "model.py"
    loaded.engine.close()


@pytest.mark.parametrize(
    ("declaration", "told"),
    [
        (Declaration(platform="tensorrt_plan"), "model.plan: needs a GPU: none was found"),
        (Declaration(is_decoupled=True), "decoupled: only a Python model answers a request other than once"),
        (Declaration(max_batch_size=2**31 - 1), "not enough memory|more than half of this machine's memory"),
    ],
)
def test_what_cannot_be_honoured_is_told(models, tmp_path, declaration, told) -> None:
    folder = version(tmp_path, models.mlp())
    with pytest.raises((ModelFileError, UnsupportedModelError), match=told):
        load(folder, declaration=declaration)


def test_weights_beside_the_model_count_as_its_memory(models, tmp_path) -> None:
    folder = version(tmp_path, models.mlp())
    before = load(folder)
    before.engine.close()
    (folder / "weights.bin").write_bytes(os.urandom(1000))
    after = load(folder)
    after.engine.close()
    assert after.held.host_bytes == before.held.host_bytes + 1000


def test_batches_that_were_declared_of_rows_that_change_each_other_are_refused(models, tmp_path) -> None:
    folder = version(tmp_path, models.normalised_over_batch())
    with pytest.raises(DeclarationError) as refused:
        load(folder, declaration=Declaration(max_batch_size=8))
    (difference,) = refused.value.differences
    assert difference.setting == "max_batch_size"
    assert difference.text.startswith(
        "the configuration says 8, and rows cannot share a batch of model.onnx: output 'y' changes"
    )
    assert (
        "write `max_batch_size: 0` where axis 0 does not count rows, or leave the field out"
        in difference.text
    )
    for most, served in ((None, 1), (1, 1), (0, 0)):
        loaded = load(folder, declaration=Declaration(max_batch_size=most))
        assert loaded.engine.spec.max_batch_size == served
        assert loaded.why_alone.startswith("output 'y' changes") is (most is None)
        loaded.engine.close()


def labelled(path: Path) -> Path:
    """What skl2onnx makes of a classifier: a label, and a map from labels to probabilities, for each row."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["output_label"], axis=1, keepdims=0),
        helper.make_node(
            "ZipMap", ["x"], ["output_probability"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
        ),
    ]
    mapped = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    outputs = [
        helper.make_tensor_value_info("output_label", TensorProto.INT64, ["N"]),
        helper.make_value_info("output_probability", helper.make_sequence_type_proto(mapped)),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_output_that_cannot_be_served_is_told_with_a_remedy_unless_others_are_declared(tmp_path) -> None:
    folder = version(tmp_path, labelled(tmp_path / "labelled.onnx"))
    for outputs in ((), (DeclaredTensor("output_probability", None, None),)):
        with pytest.raises(ModelFileError, match=r"'output_probability' .*options=\{'zipmap': False\}"):
            load(folder, declaration=Declaration(outputs=outputs))
    declared = Declaration(outputs=(DeclaredTensor("output_label", None, None),))
    engine = load(folder, declaration=declared).engine
    assert not isinstance(engine, StepEngine)
    assert [tensor.name for tensor in engine.spec.outputs] == ["output_label"]
    (labels,) = engine.run([np.eye(3, dtype=np.float32)])
    assert labels.tolist() == [0, 1, 2]
    engine.close()
