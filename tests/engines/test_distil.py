from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_networks as networks
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import CPU, Compression, chosen
from headrace_engines.compress.steps import Distil
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.rows import Rows

_ROWS = {networks.INPUT: networks.scans().train}
_TORCH = pytest.param(
    "distil-torch",
    marks=[
        pytest.mark.frameworks,
        pytest.mark.skipif(
            importlib.util.find_spec("torch") is None,
            reason="PyTorch is not installed: in a clone of Headrace: pip install '.[torch]'",
        ),
    ],
)


def _short(name: str) -> Compression:
    """Return the recipe with a short training, which suffices here."""
    (how,) = chosen([name], [CPU])
    first, *rest = how.steps
    assert isinstance(first, Distil)
    return replace(how, steps=(replace(first, rows=1500, epochs=12), *rest))


def _student(teacher: onnx.ModelProto, folder: Path, name: str = "distil", rows: Rows | None = None) -> Path:
    onnx.save(teacher, folder / "teacher.onnx")
    into = folder / "student.onnx"
    compress(_short(name), folder / "teacher.onnx", into, _ROWS if rows is None else rows)
    return into


@pytest.mark.parametrize("name", ["distil", _TORCH])
def test_the_same_rows_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    few = {networks.INPUT: networks.scans().calibration}
    first = _student(networks.perceptron(), tmp_path, name, few).read_bytes()
    assert _student(networks.perceptron(), tmp_path, name, few).read_bytes() == first


@pytest.mark.parametrize("name", ["distil", _TORCH])
@pytest.mark.parametrize("maker", [networks.perceptron, networks.convolutional, networks.transformer])
def test_a_student_reads_nearly_as_well_as_its_teacher(maker: Any, name: str, tmp_path: Path) -> None:
    teacher = maker()
    student = _student(teacher, tmp_path, name)
    assert networks.accuracy(student) >= networks.accuracy(teacher) - 0.03
    assert student.stat().st_size < teacher.ByteSize() / 2
    answers = networks.answers(student, networks.scans().held_out)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    graph, before = onnx.load(student).graph, teacher.graph
    assert [tensor.name for tensor in graph.input] == [tensor.name for tensor in before.input]
    assert [tensor.name for tensor in graph.output] == [tensor.name for tensor in before.output]


def _reads_pictures() -> onnx.ModelProto:
    """Return the convolutional network without the reshape that makes pictures of rows."""
    model = networks.convolutional()
    shaping = model.graph.node[0]
    for node in model.graph.node:
        node.input[:] = [networks.INPUT if name == shaping.output[0] else name for name in node.input]
    model.graph.node.remove(shaping)
    dims = ["batch", 1, 8, 8]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(networks.INPUT, TensorProto.FLOAT, dims))
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize(
    ("name", "first"), [("distil", "Gemm"), pytest.param(*_TORCH.values, "Conv", marks=_TORCH.marks)]
)
def test_pictures_are_flattened_by_one_student_and_convolved_by_the_other(
    name: str, first: str, tmp_path: Path
) -> None:
    scans = networks.scans()
    rows = {networks.INPUT: scans.train.reshape(-1, 1, 8, 8)}
    student = _student(_reads_pictures(), tmp_path, name, rows)
    layers = [node.op_type for node in onnx.load(student).graph.node if node.op_type in ("Conv", "Gemm")]
    assert layers[0] == first
    found = networks.answers(student, scans.held_out.reshape(-1, 1, 8, 8))
    assert (found.argmax(axis=1) == scans.labels).mean() > 0.93


def test_progress_is_told_and_grows(tmp_path: Path) -> None:
    onnx.save(networks.perceptron(), tmp_path / "teacher.onnx")
    told: list[float] = []
    compress(
        _short("distil"),
        tmp_path / "teacher.onnx",
        tmp_path / "student.onnx",
        {networks.INPUT: networks.scans().calibration},
        progress=lambda step, fraction: told.append(fraction),
    )
    assert len(told) > 1
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] < 1


def test_a_student_can_be_compressed_further(tmp_path: Path) -> None:
    student = _student(networks.perceptron(), tmp_path)
    (tmp_path / "plain").mkdir()
    both = _student(networks.perceptron(), tmp_path / "plain", "distil+int8-cpu")
    assert both.stat().st_size < student.stat().st_size / 1.8
    assert networks.accuracy(both) >= networks.accuracy(student) - 0.01


class _Teacher:
    """A wide network of two inputs, a picture of bytes and a value, and of whatever outputs are asked for."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.rows: dict[str, NDArray[Any]] = {
            "picture": random.integers(0, 256, (600, 1, 4, 4), np.uint8),
            "value": random.normal(size=(600, 1)).astype(np.float32),
        }
        self.nodes = [
            helper.make_node("Cast", ["picture"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("Mul", ["flat", "scale"], ["scaled"]),
            helper.make_node("Concat", ["scaled", "value"], ["both"], axis=1),
            helper.make_node("Gemm", ["both", "first"], ["wide"]),
            helper.make_node("Tanh", ["wide"], ["bent"]),
            helper.make_node("Gemm", ["bent", "second"], ["sums"]),
        ]
        self.weights = {
            "scale": np.array(1 / 255, np.float32),
            "first": random.normal(size=(17, 1024)).astype(np.float32) / 4,
            "second": random.normal(size=(1024, 3)).astype(np.float32) / 16,
            "names": np.array([30, 10, 20]),
            "one": np.array([1]),
            "place": np.array(1),
        }

    def model(
        self, outputs: dict[str, tuple[int, list[int | str]]], *nodes: onnx.NodeProto
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            [*self.nodes, *nodes],
            "teacher",
            [
                helper.make_tensor_value_info("picture", TensorProto.UINT8, ["batch", 1, 4, 4]),
                helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch", 1]),
            ],
            [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in outputs.items()],
            [numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_SOFTMAX = helper.make_node("Softmax", ["sums"], ["shares"], axis=1)
_BEST = helper.make_node("ArgMax", ["shares"], ["best"], axis=1, keepdims=0)
_LABEL = helper.make_node("Gather", ["names", "best"], ["label"])
_COLUMN = helper.make_node("Gather", ["sums", "one"], ["column"], axis=1)
_SHARE = helper.make_node("Sigmoid", ["column"], ["share"])
_FLAT = helper.make_node("Gather", ["sums", "place"], ["flat_value"], axis=1)
_OUTPUTS: dict[str, tuple[dict[str, tuple[int, list[int | str]]], tuple[onnx.NodeProto, ...]]] = {
    "label and shares": (
        {"label": (TensorProto.INT64, ["batch"]), "shares": (TensorProto.FLOAT, ["batch", 3])},
        (_SOFTMAX, _BEST, _LABEL),
    ),
    "values": ({"sums": (TensorProto.FLOAT, ["batch", 3])}, ()),
    "one share": ({"share": (TensorProto.FLOAT, ["batch", 1])}, (_COLUMN, _SHARE)),
    "one value and shares": (
        {"flat_value": (TensorProto.FLOAT, ["batch"]), "shares": (TensorProto.FLOAT, ["batch", 3])},
        (_FLAT, _SOFTMAX),
    ),
}


@pytest.mark.parametrize("kind", _OUTPUTS)
def test_students_have_the_tensors_of_their_teachers(kind: str, tmp_path: Path) -> None:
    outputs, nodes = _OUTPUTS[kind]
    teacher = _Teacher()
    student = _student(teacher.model(outputs, *nodes), tmp_path, rows=teacher.rows)
    wanted, found = (
        onnx.reference.ReferenceEvaluator(str(path)).run(None, teacher.rows)
        for path in (tmp_path / "teacher.onnx", student)
    )
    graph = onnx.load(student).graph
    assert {tensor.name: tensor.type.tensor_type.elem_type for tensor in graph.output} == {
        name: elements for name, (elements, _) in outputs.items()
    }
    for exact, near in zip(wanted, found, strict=True):
        assert (near.dtype, near.shape) == (exact.dtype, exact.shape)
        if exact.dtype.kind == "i":
            assert (near == exact).mean() > 0.9
        else:
            assert np.square(near - exact).mean() < 0.05 * np.var(exact)


def test_what_no_student_can_learn_is_named(tmp_path: Path) -> None:
    teacher = _Teacher()
    cube = helper.make_node("Unsqueeze", ["sums", "one"], ["cube"])
    cases = [
        (
            ({"cube": (TensorProto.FLOAT, ["batch", 1, 3])}, (cube,)),
            "output 'cube' is float32 of 2 dimensions",
        ),
        (
            ({"best": (TensorProto.INT64, ["batch"])}, (_SOFTMAX, _BEST)),
            "output 'best' is int64 of 0 dimensions",
        ),
    ]
    for (outputs, nodes), complaint in cases:
        with pytest.raises(UnsupportedModelError, match=f"^distil: nothing to distil: {complaint}"):
            _student(teacher.model(outputs, *nodes), tmp_path, rows=teacher.rows)
    few = {name: rows[:2] for name, rows in teacher.rows.items()}
    outputs, nodes = _OUTPUTS["label and shares"]
    with pytest.raises(UnsupportedModelError, match=r"'label' is not a label for each of the 3 classes"):
        _student(teacher.model(outputs, *nodes), tmp_path, rows=few)
    with pytest.raises(UnsupportedModelError, match=r"the student has \d+ parameters, and the model 650$"):
        _student(networks.logistic(), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_a_framework_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"^distil-torch: this needs torch, .*'\.\[torch\]'$"):
        _student(networks.perceptron(), tmp_path, "distil-torch")
