"""What every importer writes goes through these checks; here they are tried on ONNX files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from node_networks import drawn, info, network
from onnx import TensorProto, numpy_helper

from headrace_engines.errors import EngineError, ModelFileError, UnsupportedModelError
from headrace_engines.importers import checks, exported, simplify
from headrace_engines.importers.fixed_reshapes import Opened, opened_shape
from headrace_engines.importers.importer import NEWEST_OPSET
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine


def _dense() -> onnx.ModelProto:
    nodes = [oh.make_node("MatMul", ["x", "w"], ["product"]), oh.make_node("Add", ["product", "bias"], ["y"])]
    constants = {"w": drawn(3, 6), "bias": drawn(1, 6)}
    return network(nodes, [info("x", ["N", 3])], [info("y", ["N", 6])], constants)


def _settled(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    path = folder / "model.onnx"
    onnx.save(model, path)
    checks.finish(path, 17)
    return onnx.load(path)


def _reducing(rows: int | str) -> onnx.ModelProto:
    node = oh.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    return network([node], [info("x", [rows, 2])], [info("y", [])])


_MIXED = [oh.make_node("MatMul", ["mixing", "x"], ["y"])]
_CENTRED = [oh.make_node("ReduceMean", ["x"], ["m"], axes=[0]), oh.make_node("Sub", ["x", "m"], ["y"])]
_SUM = [oh.make_node("Add", ["a", "b"], ["y"])]
_TWICE = [oh.make_node("Concat", ["x", "x"], ["y"], axis=0)]
_RELU = [oh.make_node("Relu", ["x"], ["y"])]
_NEITHER = oh.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            network(_MIXED, [info("x", [2, 3])], [info("y", [2, 3])], {"mixing": drawn(2, 2)}),
            "the model's first axis is fixed at 2 and cannot be opened (",
        ),
        (
            network(_CENTRED, [info("x", [2, 3])], [info("y", [2, 3])]),
            "the model's first axis is fixed at 2 and cannot be opened (",
        ),
        (_reducing("N"), "the output 'y' is [], without a row for each that comes: export the model"),
        (
            network(_RELU, [info("x", ["N", 2])], [info("y", [3, 2])]),
            "the output 'y' is [3, 2], without a row for each that comes",
        ),
        (
            network(_TWICE, [info("x", ["N", 2])], [info("y", ["M", 2])]),
            "of the output 'y' it cannot be proved that it has a row for each that comes",
        ),
        (
            network(_SUM, [info("a", [2, 1]), info("b", [1, 2])], [info("y", None)]),
            "the first axes of the inputs are fixed at different sizes ('a' at 2, 'b' at 1)",
        ),
        (network(_RELU, [info("x", [])], [info("y", [])]), "the input 'x' is a scalar"),
        (network(_RELU, [info("x", None)], [info("y", None)]), "the input 'x' does not tell its shape"),
        (
            network([oh.make_node("Relu", ["c"], ["y"])], [], [info("y", [1])], {"c": drawn(1)}),
            "the model has no inputs",
        ),
        (
            network([oh.make_node("SequenceConstruct", ["x"], ["y"])], [info("x", ["N", 2])], [_NEITHER]),
            "the output 'y' is a sequence, and only tensors are served",
        ),
    ],
)  # fmt: skip
def test_what_has_no_axis_of_rows_is_refused(tmp_path: Path, model: onnx.ModelProto, told: str) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        _settled(model, tmp_path)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def _with(model: onnx.ModelProto, name: str, value: float) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[3] = value
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model


def _of_domain(domain: str, kind: str) -> onnx.ModelProto:
    model = network(
        [oh.make_node(kind, ["x"], ["y"], domain=domain)],
        [info("x", ["N", 2])],
        [info("y", ["N", 2])],
    )
    if domain:
        model.opset_import.append(oh.make_opsetid(domain, 1))
    return model


@pytest.mark.parametrize(
    ("model", "kind", "told"),
    [
        (_of_domain("their", "Foo"), UnsupportedModelError, "operators that are not ONNX's: their.Foo"),
        (_of_domain("", "Foo"), UnsupportedModelError, "operators that are not ONNX's: Foo: export"),
        (_of_domain("", "Gelu"), UnsupportedModelError, "the operator Gelu ('y') is of opset 20"),
        (
            network(_RELU, [info("x", ["N", 2])], [info("y", ["N", 2])], opset=99),
            UnsupportedModelError,
            "written in opset 99, and the newest that is known here is",
        ),
        *(
            (_of_domain("", kind), UnsupportedModelError, f"{kind} ('y') answers differently each time")
            for kind in ("RandomNormalLike", "RandomUniformLike", "Bernoulli")
        ),
        (_with(_dense(), "w", np.nan), ModelFileError, "1 of the 18 values of 'w' are NaN: the"),
        (_with(_dense(), "w", -np.inf), ModelFileError, "1 of the 18 values of 'w' are infinite"),
        (_with(_dense(), "bias", np.nan), ModelFileError, "1 of the 6 values of 'bias' are NaN"),
    ],
)  # fmt: skip
def test_models_that_nothing_can_be_built_of_are_refused(
    tmp_path: Path, model: onnx.ModelProto, kind: type[EngineError], told: str
) -> None:
    with pytest.raises(kind) as refused:
        _settled(model, tmp_path)
    assert told in str(refused.value)


def test_a_mask_of_infinities_is_no_fault(tmp_path: Path) -> None:
    mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    nodes = [oh.make_node("Add", ["x", "mask"], ["masked"]), oh.make_node("Softmax", ["masked"], ["y"])]
    model = network(nodes, [info("x", ["N", 3, 3])], [info("y", ["N", 3, 3])], {"mask": mask})
    result = _settled(model, tmp_path)
    assert [node.op_type for node in result.graph.node] == ["Add", "Softmax"]


def test_constants_among_the_inputs_and_domains_named_twice_are_mended(tmp_path: Path) -> None:
    model = network([oh.make_node("Gemm", ["x", "w"], ["y"])], [info("x", ["N", 2]), info("w", [2, 3])],
                   [info("y", ["N", 3])], {"w": drawn(2, 3)})  # fmt: skip
    model.ir_version = 3
    model.opset_import.extend([oh.make_opsetid("ai.onnx", 13), oh.make_opsetid("ai.onnx.ml", 3)])
    result = _settled(model, tmp_path)
    assert [value.name for value in result.graph.input] == ["x"]
    assert [(entry.domain, entry.version) for entry in result.opset_import] == [("", 17)]


def test_the_bias_of_a_product_has_one_axis(tmp_path: Path) -> None:
    model = _settled(_dense(), tmp_path)
    (gemm,) = model.graph.node
    assert gemm.op_type == "Gemm"
    assert {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}[gemm.input[2]] == [6]


def test_what_was_settled_stays_as_it_is(tmp_path: Path) -> None:
    first = _settled(_dense(), tmp_path)
    assert _settled(first, tmp_path) == first


def test_fp16_stays_fp16(tmp_path: Path) -> None:
    dtype = TensorProto.FLOAT16
    constants = {"w": drawn(2, 3).astype(np.float16)}
    inputs, outputs = [info("x", ["N", 2], dtype)], [info("y", ["N", 3], dtype)]
    model = network([oh.make_node("Gemm", ["x", "w"], ["y"])], inputs, outputs, constants)
    assert [node.op_type for node in _settled(model, tmp_path).graph.node] == ["Gemm"]


def test_operators_of_the_runtime_are_left_as_they_are(tmp_path: Path) -> None:
    result = _settled(_of_domain("com.microsoft", "Gelu"), tmp_path)
    assert [(node.domain, node.op_type) for node in result.graph.node] == [("com.microsoft", "Gelu")]


def test_weights_of_a_large_model_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "_MOST_BYTES", 1000)
    monkeypatch.setattr(exported, "_LARGEST_BYTES", 2000)
    constants = {"w": drawn(24, 24), "bias": drawn(1, 24)}
    nodes = [
        oh.make_node("Reshape", ["x", "flat"], ["rows"]),
        oh.make_node("Gemm", ["rows", "w", "bias"], ["y"]),
    ]
    inputs, outputs = [info("x", [1, 4, 6])], [info("y", [1, 24])]
    model = network(nodes, inputs, outputs, {**constants, "flat": [1, 24]})
    _settled(model, tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 1000
    assert (tmp_path / "model.onnx.data").stat().st_size >= 24 * 24 * 4
    rows = drawn(3, 4, 6)
    (answers,) = OnnxRuntimeEngine(tmp_path / "model.onnx").run([rows])
    expected = rows.reshape(3, 24) @ constants["w"] + constants["bias"]
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-4)


def _flattening(shape: Sequence[int]) -> onnx.ModelProto:
    """A model that says it takes any number of rows, and reshapes them to one."""
    nodes = [oh.make_node("Reshape", ["x", "flat"], ["rows"]), oh.make_node("MatMul", ["rows", "w"], ["y"])]
    constants = {"w": drawn(24, 5), "flat": np.array(shape)}
    return network(nodes, [info("x", ["N", 4, 6])], [info("y", ["N", 5])], constants)


def test_one_row_that_was_baked_in_is_opened(tmp_path: Path) -> None:
    model = _flattening([1, 24])
    _settled(model, tmp_path)
    rows = drawn(3, 4, 6)
    (answers,) = OnnxRuntimeEngine(tmp_path / "model.onnx").run([rows])
    weights = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(answers, rows.reshape(3, 24) @ weights, rtol=1e-4, atol=1e-4)


def test_one_row_that_cannot_be_opened_is_told_though_the_axis_is_said_to_be_open(tmp_path: Path) -> None:
    nodes = [oh.make_node("Gemm", ["mixing", "x"], ["y"])]
    model = network(nodes, [info("x", ["N", 3])], [info("y", ["N", 3])], {"mixing": drawn(1, 1)})
    with pytest.raises(
        UnsupportedModelError, match="takes one row alone, though its first axis is said to be open"
    ):
        _settled(model, tmp_path)


def test_an_old_opset_is_raised(tmp_path: Path) -> None:
    nodes = [
        oh.make_node("Squeeze", ["x"], ["flat"], axes=[2]),
        oh.make_node("Dropout", ["flat"], ["kept"]),
        oh.make_node("Softmax", ["kept"], ["y"], axis=1),
    ]
    model = network(nodes, [info("x", ["N", 3, 1])], [info("y", ["N", 3])], opset=9)
    result = _settled(model, tmp_path)
    assert [(entry.domain, entry.version) for entry in result.opset_import] == [("", 17)]
    assert "Dropout" not in {node.op_type for node in result.graph.node}
    rows = drawn(4, 3, 1)
    (answers,) = OnnxRuntimeEngine(tmp_path / "model.onnx").run([rows])
    expected = np.exp(rows[..., 0]) / np.exp(rows[..., 0]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers, expected, rtol=1e-5)


def test_an_opset_that_is_newer_than_the_runtimes_is_lowered(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    result = _settled(network(_RELU, [info("x", ["N", 2])], [info("y", ["N", 2])], opset=newest), tmp_path)
    assert [entry.version for entry in result.opset_import] == [min(newest, NEWEST_OPSET)]


@pytest.mark.parametrize(
    ("came", "grown", "left", "rows", "is_inner", "shape", "leaves_inner"),
    [
        ((1, 2048, 1, 1), (7, 2048, 1, 1), (1, 2048), 1, False, (-1, 2048), False),
        ((1, 112, 56, 56), (7, 112, 56, 56), (1, 4, 28, 56, 56), 1, False, (-1, 4, 28, 56, 56), False),
        ((16, 1, 32), (16, 7, 32), (16, 4, 8), 1, False, (16, -1, 8), False),
        ((4, 16, 8), (28, 16, 8), (1, 4, 16, 8), 1, False, (-1, 4, 16, 8), False),
        ((16, 1, 4, 8), (16, 7, 4, 8), (16, 32), 1, False, (-1, 32), True),
        ((16, 32), (112, 32), (16, 1, 32), 1, True, (16, -1, 32), False),
        ((17, 48), (119, 48), (1, 17, 1, 3, 16), 1, True, (1, 17, -1, 3, 16), False),
        ((17, 48), (119, 48), (1, 17, 1, 3, 16), 1, False, (-1, 17, 1, 3, 16), False),
        ((3, 5, 4), (21, 5, 4), (15, 4), 3, False, (-1, 4), False),
        ((15, 4), (105, 4), (3, 5, 4), 3, False, (-1, 5, 4), False),
        ((6, 2), (6, 14), (3, 4), 2, False, (3, -1), True),
        ((1, 8), (7, 8), (8,), 1, False, (-1,), False),
    ],
)
def test_a_reshape_follows_the_rows(
    came: tuple[int, ...],
    grown: tuple[int, ...],
    left: tuple[int, ...],
    rows: int,
    is_inner: bool,
    shape: tuple[int, ...],
    leaves_inner: bool,
) -> None:
    assert opened_shape(came, grown, left, rows, is_inner=is_inner) == Opened(shape, leaves_inner)


@pytest.mark.parametrize(
    ("came", "grown", "left", "rows"),
    [((4, 8), (4, 8), (32,), 1), ((2, 8), (14, 56), (16,), 2), ((3, 2, 5), (3, 14, 5), (5, 6), 2)],
    ids=["no rows", "two axes grow", "no axis fits"],
)
def test_a_reshape_stays_where_nothing_can_be_told(
    came: tuple[int, ...], grown: tuple[int, ...], left: tuple[int, ...], rows: int
) -> None:
    assert opened_shape(came, grown, left, rows) is None
