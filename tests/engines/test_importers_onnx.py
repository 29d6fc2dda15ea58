"""ONNX files through sessions: what comes out is what everything else is built of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.helper as oh
import pytest
from node_networks import drawn, info, network
from onnx import numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.formats import detect
from headrace_engines.importers.importer import ImportOptions, standard_path
from headrace_engines.importers.onnx import open_source
from headrace_engines.importers.session import import_session
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_OPTIONS = ImportOptions()
_RANDOM = np.random.default_rng(0)
_LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"


def _attention(rows: int) -> onnx.ModelProto:
    """A layer of attention with four heads, as PyTorch exports it: its example's rows are in every shape."""
    nodes = [
        oh.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        oh.make_node("MatMul", ["steps", "w"], ["mixed"]),
        oh.make_node("Reshape", ["mixed", "heads"], ["split"]),
        oh.make_node("Transpose", ["split"], ["by_head"], perm=[1, 0, 2]),
        oh.make_node("Reshape", ["by_head", "four"], ["queries"]),
        oh.make_node("Transpose", ["queries"], ["keys"], perm=[0, 1, 3, 2]),
        oh.make_node("MatMul", ["queries", "keys"], ["scores"]),
        oh.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        oh.make_node("MatMul", ["weights", "queries"], ["heard"]),
        oh.make_node("Transpose", ["heard"], ["back"], perm=[2, 0, 1, 3]),
        oh.make_node("Reshape", ["back", "flat"], ["rows"]),
        oh.make_node("Gemm", ["rows", "w", "row_bias"], ["projected"]),
        oh.make_node("Reshape", ["projected", "steps_again"], ["by_step"]),
        oh.make_node("Transpose", ["by_step"], ["y"], perm=[1, 0, 2]),
    ]
    constants = {
        "w": drawn(32, 32),
        "row_bias": drawn(1, 32),
        "heads": [6, 4 * rows, 8],
        "four": [rows, 4, 6, 8],
        "flat": [6 * rows, 32],
        "steps_again": [6, rows, 32],
    }
    return network(nodes, [info("x", [rows, 6, 32])], [info("y", [rows, 6, 32])], constants)


def _convolution() -> onnx.ModelProto:
    """A picture, flattened to the one row of the example by a shape that says nothing of the rest."""
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["maps"]),
        oh.make_node("Sum", ["maps", "maps"], ["twice"]),
        oh.make_node("Constant", [], ["flat"], value=numpy_helper.from_array(np.array([1, -1]))),
        oh.make_node("Reshape", ["twice", "flat"], ["row"]),
        oh.make_node("MatMul", ["row", "dense"], ["product"]),
        oh.make_node("Add", ["product", "bias"], ["y"]),
    ]
    constants = {"w": drawn(2, 1, 3, 3), "dense": drawn(32, 5), "bias": drawn(1, 5)}
    return network(nodes, [info("x", [1, 1, 6, 6])], [info("y", [1, 5])], constants)


def _recurrent() -> onnx.ModelProto:
    """A recurrent layer that starts from the zeros of one row."""
    nodes = [
        oh.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        oh.make_node("LSTM", ["steps", "w", "r", "", "", "zeros", "zeros"], ["", "last"], hidden_size=4),
        oh.make_node("Squeeze", ["last", "first"], ["y"]),
    ]
    constants = {
        "w": drawn(1, 16, 8),
        "r": drawn(1, 16, 4),
        "zeros": np.zeros((1, 1, 4), np.float32),
        "first": np.array([0]),
    }
    return network(nodes, [info("x", [1, 5, 8])], [info("y", [1, 4])], constants)


def _token() -> onnx.ModelProto:
    """A token of the model's own before those of the one row, spread to the row's shape."""
    nodes = [
        oh.make_node("Expand", ["token", "shape"], ["spread"]),
        oh.make_node("Concat", ["spread", "x"], ["tokens"], axis=1),
        oh.make_node("ReduceMean", ["tokens"], ["y"], axes=[1], keepdims=0),
    ]
    constants = {"token": drawn(1, 1, 8), "shape": np.array([1, 1, 8])}
    return network(nodes, [info("x", [1, 5, 8])], [info("y", [1, 8])], constants)


def _imported(
    model: onnx.ModelProto, folder: Path, options: ImportOptions = _OPTIONS
) -> tuple[onnx.ModelProto, float]:
    """Import a model; returns what came out and how far its answers are from the file's, of their range."""
    path, into = folder / "source.onnx", folder / "model.onnx"
    onnx.save(model, path)
    return _converted(path, into, options)


def _converted(path: Path, into: Path, options: ImportOptions = _OPTIONS) -> tuple[onnx.ModelProto, float]:
    with import_session(path, detect(path), options, is_trusted=False) as session:
        session.convert(into)
        engine = OnnxRuntimeEngine(into, max_batch_size=4)
        rows = {
            tensor.name: _RANDOM.normal(size=(3, *tensor.dims)).astype(tensor.dtype)
            for tensor in engine.spec.inputs
        }
        expected = session.answers(rows)
    answers = engine.run(list(rows.values()))
    result = onnx.load(into)
    onnx.checker.check_model(result)
    for value in (*result.graph.input, *result.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    errors = [
        float(np.abs(mine - theirs).max() / (np.abs(theirs).max() or 1.0))
        for mine, theirs in zip(answers, expected, strict=True)
    ]
    return result, max(errors)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_attention_for_a_fixed_number_of_rows_is_opened(tmp_path: Path, rows: int) -> None:
    model, error = _imported(_attention(rows), tmp_path)
    assert error < 1e-5
    (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == gemm.input[2])
    assert list(bias.dims) == [32]


@pytest.mark.parametrize("model", [_recurrent(), _token()], ids=["recurrent", "token"])
def test_constants_of_one_row_are_given_to_every_row(tmp_path: Path, model: onnx.ModelProto) -> None:
    assert _imported(model, tmp_path)[1] < 1e-6


def test_a_convolution_for_one_row_is_opened(tmp_path: Path) -> None:
    model, error = _imported(_convolution(), tmp_path)
    assert error < 1e-5
    assert [node.op_type for node in model.graph.node] == ["Conv", "Add", "Reshape", "Gemm"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_real_architectures_for_one_row_are_opened_and_raised(tmp_path: Path, name: str) -> None:
    model, error = _converted(_LIGHT / f"light_{name}.onnx", tmp_path / "model.onnx")
    assert error < 1e-5
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert "ConstantOfShape" not in {node.op_type for node in model.graph.node}


def test_the_same_file_makes_the_same_bytes(tmp_path: Path) -> None:
    model = _attention(1)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        onnx.save(model, tmp_path / folder / "source.onnx")
        _converted(tmp_path / folder / "source.onnx", tmp_path / folder / "model.onnx")
    assert (tmp_path / "one/model.onnx").read_bytes() == (tmp_path / "two/model.onnx").read_bytes()


def test_what_counts_rows_under_another_name_is_called_batch(tmp_path: Path) -> None:
    nodes = [oh.make_node("Relu", ["a"], ["y"]), oh.make_node("Concat", ["a", "b"], ["z"], axis=1)]
    inputs = [info("a", ["N", 3]), info("b", [None, 2])]
    model, error = _imported(network(nodes, inputs, [info("y", ["N", 3]), info("z", None)]), tmp_path)
    assert error == 0.0
    assert [len(value.type.tensor_type.shape.dim) for value in model.graph.output] == [2, 2]


def test_facts_tell_of_the_file(tmp_path: Path) -> None:
    model = _convolution()
    model.producer_name, model.producer_version = "maker", "1.2"
    onnx.save(model, tmp_path / "model.onnx")
    with import_session(
        tmp_path / "model.onnx", detect(tmp_path / "model.onnx"), _OPTIONS, is_trusted=False
    ) as session:
        assert session.facts == {
            "producer": "maker 1.2",
            "opset": 17,
            "ir_version": 8,
            "operators": 6,
            "parameters": 18 + 160 + 5,
        }


def test_weights_beside_the_file_are_found_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    onnx.save_model(_attention(1), folder / "net.onnx", save_as_external_data=True, location="net.bin")
    model, error = _converted(folder, tmp_path / "model.onnx")
    assert error < 1e-5
    assert not [tensor for tensor in model.graph.initializer if tensor.external_data]
    (folder / "net.bin").unlink()
    with pytest.raises(
        ModelFileError, match=r"^net\.onnx: its weights are in 'net\.bin', which is not there"
    ):
        _converted(folder, tmp_path / "model.onnx")


def test_sizes_that_the_file_leaves_open_may_be_given(tmp_path: Path) -> None:
    model = network([oh.make_node("Relu", ["x"], ["y"])], [info("x", ["N", "C", 4])], [info("y", None)])
    told, error = _imported(model, tmp_path, ImportOptions(input_shapes={"x": (3, 4)}))
    assert error == 0.0
    for value in (*told.graph.input, *told.graph.output):
        assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [0, 3, 4]


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"z": (3, 4)}, "the model has no input 'z': its inputs are 'x'"),
        ({"x": (3, 5)}, "a row of the input 'x' is ['?', 4], and [3, 5] was given"),
        ({"x": (3,)}, "a row of the input 'x' is ['?', 4], and [3] was given"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], told: str
) -> None:
    model = network([oh.make_node("Relu", ["x"], ["y"])], [info("x", ["N", "C", 4])], [info("y", None)])
    with pytest.raises(UnsupportedModelError) as refused:
        _imported(model, tmp_path, ImportOptions(input_shapes=shapes))
    assert str(refused.value) == told


def test_an_opset_that_is_asked_for_is_written(tmp_path: Path) -> None:
    model, error = _imported(_convolution(), tmp_path, ImportOptions(opset=19))
    assert error < 1e-5
    assert model.opset_import[0].version == 19
    assert model.ir_version == 9


@pytest.mark.parametrize("opset", [1, 7, 12, 24, 99])
def test_an_opset_that_is_not_written_is_refused_with_those_that_are(opset: int) -> None:
    with pytest.raises(ValueError, match=rf"--opset {opset}: models are written in opsets 13 to 23"):
        ImportOptions(opset=opset)


def test_an_opset_that_the_runtime_does_not_run_is_named(tmp_path: Path) -> None:
    model = network(
        [oh.make_node("Relu", ["x"], ["y"])], [info("x", ["N", 4])], [info("y", ["N", 4])], opset=1
    )
    onnx.save(model, tmp_path / "old.onnx")
    importer = open_source(tmp_path / "old.onnx", ImportOptions())
    with pytest.raises(UnsupportedModelError, match=r"in opset 1, .*Relu\(1\).*: export it with opset 17"):
        importer.answers({"x": np.zeros((1, 4), np.float32)})


def test_a_factory_has_no_effect_on_a_whole_model_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="and a file of ONNX needs none: leave it out"):
        open_source(tmp_path / "model.onnx", ImportOptions(factory="net.py:make"))


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    model = network(
        [oh.make_node("Double", ["x"], ["y"], domain="own")],
        [info("x", ["N", 2])],
        [info("y", ["N", 2])],
    )
    body = [oh.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(oh.make_function("own", "Double", ["a"], ["b"], body, [oh.make_opsetid("", 17)]))
    model.opset_import.append(oh.make_opsetid("own", 1))
    result, error = _imported(model, tmp_path)
    assert error == 0.0
    assert [node.op_type for node in result.graph.node] == ["Add"]
    assert not result.functions


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), RandomForestClassifier(3, random_state=0)], ids=str
)
def test_operators_of_classical_machine_learning_become_onnx_s_own(tmp_path: Path, estimator: Any) -> None:
    rows = _RANDOM.normal(size=(60, 4)).astype(np.float32)
    estimator.fit(rows, np.arange(60) % 3)
    path, into = tmp_path / "source.onnx", tmp_path / "model.onnx"
    path.write_bytes(to_onnx(estimator, rows[:1], target_opset=17).SerializeToString())
    with import_session(path, detect(path), _OPTIONS, is_trusted=False) as session:
        session.convert(into)
        labels, probabilities = session.answers({"X": rows})
    np.testing.assert_array_equal(labels, estimator.predict(rows))
    twin = standard_path(into)
    assert twin.exists() == isinstance(estimator, RandomForestClassifier)
    for file in filter(Path.exists, (into, twin)):
        mine = OnnxRuntimeEngine(file).run([rows])
        np.testing.assert_array_equal(mine[0], labels)
        assert np.abs(mine[1] - probabilities).max() < 1e-5
    own = onnx.load(twin if twin.exists() else into)
    assert {node.domain for node in own.graph.node} == {""}
