from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks as networks
from onnx import TensorProto

from headrace_engines.compress import graph
from headrace_engines.errors import UnsupportedModelError


def test_every_node_has_a_name_of_its_own_that_is_the_same_each_time(tmp_path: Path) -> None:
    model = networks.transformer()
    for node in model.graph.node:
        node.name = "" if node.op_type == "MatMul" else node.name
    onnx.save(model, tmp_path / "model.onnx")
    first, second = (graph.prepared(tmp_path / "model.onnx") for _ in range(2))
    names = [node.name for node in first.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert first.SerializeToString() == second.SerializeToString()


def test_a_prepared_model_answers_the_same_with_normalisation_fused(tmp_path: Path) -> None:
    model = networks.convolutional()
    onnx.save(model, tmp_path / "model.onnx")
    prepared = graph.prepared(tmp_path / "model.onnx")
    assert "BatchNormalization" not in {node.op_type for node in prepared.graph.node}
    scans = networks.scans().held_out
    np.testing.assert_allclose(networks.answers(prepared, scans), networks.answers(model, scans), atol=1e-5)


def test_biases_of_two_dimensions_lose_the_first(tmp_path: Path) -> None:
    network = networks.Network()
    network.add("Gemm", network.draw(64, 10, fan_in=64), network.draw(1, 10, fan_in=64))
    onnx.save(network.model(), tmp_path / "model.onnx")
    prepared = graph.prepared(tmp_path / "model.onnx")
    assert list(graph.constants(prepared.graph)["gemm_0_1"].dims) == [10]
    scans = networks.scans().held_out
    np.testing.assert_allclose(
        networks.answers(prepared, scans), networks.answers(network.model(), scans), atol=1e-5
    )


def test_operator_sets_that_no_node_uses_are_dropped_and_others_kept(tmp_path: Path) -> None:
    network = networks.Network()
    network.dense(network.draw(64, 10, fan_in=64), np.zeros(10))
    network.add("Gelu", domain="com.microsoft")
    model = onnx.ModelProto.FromString(network.unchecked().SerializeToString())
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "model.onnx")
    prepared = graph.prepared(tmp_path / "model.onnx")
    assert {opset.domain for opset in prepared.opset_import} == {"", "com.microsoft"}


def test_weights_of_another_precision_are_no_layers(tmp_path: Path) -> None:
    onnx.save(networks.perceptron(), tmp_path / "model.onnx")
    prepared = graph.prepared(tmp_path / "model.onnx")
    assert len(list(graph.layers(prepared.graph))) == 3
    for weight in prepared.graph.initializer:
        values = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    assert not list(graph.layers(prepared.graph))
    with pytest.raises(UnsupportedModelError, match="with constant FP32 weights hold 0 of them"):
        graph.check_weights(prepared.graph, ())


def test_weights_in_another_file_are_read(tmp_path: Path) -> None:
    model = networks.perceptron()
    onnx.save(model, tmp_path / "plain.onnx")
    onnx.save(
        model, tmp_path / "apart.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    plain, apart = (graph.prepared(tmp_path / f"{name}.onnx") for name in ("plain", "apart"))
    assert not any(onnx.external_data_helper.uses_external_data(weight) for weight in apart.graph.initializer)
    scans = networks.scans().held_out
    np.testing.assert_array_equal(networks.answers(apart, scans), networks.answers(plain, scans))


def test_a_model_that_no_single_file_can_hold_is_refused_by_its_size(tmp_path: Path) -> None:
    model = networks.perceptron()
    huge = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[2**15, 2**14])
    huge.data_location = TensorProto.EXTERNAL
    huge.external_data.add(key="location", value="weights")
    model.graph.initializer.append(huge)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        UnsupportedModelError, match=r"^the model has 2,147,\d+,\d+ bytes; compression takes fewer"
    ):
        graph.prepared(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("rows", "dims", "sizes"),
    [
        (200, (64,), [64, 64, 64, 8]),
        (3, (64,), [3]),
        (5, (512, 1024), [2, 2, 1]),
        (2, (2048, 1024), [1, 1]),
        (0, (4,), []),
    ],
)
def test_batches_are_of_bounded_size_and_leave_out_nothing(
    rows: int, dims: tuple[int, ...], sizes: list[int]
) -> None:
    values = np.arange(rows, dtype=np.float32).reshape(rows, *[1] * len(dims))
    given = {networks.INPUT: np.broadcast_to(values, (rows, *dims))}
    batches = graph.batches(given, networks.Network(dims).model().graph)
    assert [len(batch[networks.INPUT]) for batch in batches] == sizes
    seen = [float(row.flat[0]) for batch in batches for row in batch[networks.INPUT]]
    assert seen == list(range(rows))
