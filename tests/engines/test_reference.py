from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

from headrace_engines.errors import ExecutionError, ModelFileError, UnsupportedModelError
from headrace_engines.runtime.reference import ReferenceEngine


def test_computes_a_layer_as_written_out(models):
    path = models.save(
        [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        weights={
            "w": np.array([[1, 0, 2], [0, 1, 0], [0, 0, 1]], np.float32),
            "b": np.array([0, -10, 1], np.float32),
        },
    )
    engine = ReferenceEngine(path)
    (buffer,) = engine.inputs(0)
    buffer[:2] = [[1, 2, 3], [-1, 20, 0]]
    engine.submit(0, 2)
    (y,) = engine.wait(0)
    np.testing.assert_array_equal(y, [[1, 0, 6], [0, 10, 0]])
    np.testing.assert_array_equal(engine.run([buffer[:2]])[0], y)


def test_rows_that_the_buffers_do_not_have_are_refused(models):
    engine = ReferenceEngine(models.mlp(), max_batch_size=4)
    with pytest.raises(ValueError, match="5 rows were submitted, expected 1 to 4"):
        engine.submit(0, 5)


def test_models_without_staging_say_so(models):
    engine = ReferenceEngine(models.unary("Identity", TensorProto.STRING))
    with pytest.raises(ValueError, match="no staging buffers"):
        engine.inputs(0)


def test_a_failing_batch_leaves_the_engine_whole(models):
    engine = ReferenceEngine(models.embedding())
    x = np.zeros((1, 3), np.float32)
    with pytest.raises(ExecutionError, match="reference: index 99 is out of bounds"):
        engine.run([x, np.array([99])])
    assert engine.run([x, np.array([1])])[1].tolist() == [2]


def test_unknown_operators_are_named(models):
    with pytest.raises(UnsupportedModelError, match="'Frobnicate'"):
        ReferenceEngine(models.unary("Frobnicate", TensorProto.FLOAT))


def test_inputs_that_are_no_tensors_are_named(models, tmp_path):
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    length = helper.make_tensor_value_info("y", TensorProto.INT64, ())
    graph = helper.make_graph([helper.make_node("SequenceLength", ["x"], ["y"])], "g", [sequence], [length])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UnsupportedModelError, match="'x' is not a tensor"):
        ReferenceEngine(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "it has no graph"), (b"\x08", "not an ONNX model"), (None, "cannot be read")],
)
def test_damaged_files_are_named(tmp_path, contents, message):
    path = tmp_path / "model.onnx"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(ModelFileError, match=f"^{re.escape(str(path))}: .*{message}"):
        ReferenceEngine(path)


def test_instances_have_buffers_of_their_own(models):
    engine = ReferenceEngine(models.unary("Neg", TensorProto.FLOAT), max_batch_size=4)
    twin = engine.replicate()
    engine.inputs(0)[0][:1] = 1
    twin.inputs(0)[0][:2] = 2
    engine.submit(0, 1)
    twin.submit(0, 2)
    np.testing.assert_array_equal(engine.wait(0)[0], [[-1, -1, -1]])
    np.testing.assert_array_equal(twin.wait(0)[0], [[-2, -2, -2], [-2, -2, -2]])
