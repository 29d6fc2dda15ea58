from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.importers.canonical import canonise

_ROWS = np.array([[1, -2], [3, 4]], np.float32)


def tensor(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims or ("batch", 2))


def counted(numbers: list[int], order: list[int]) -> onnx.ModelProto:
    """Return one model with these numbers in its names and its operators and weights in this order.

    Two operators have the same name but for the number, a loop takes a name from around it, and nobody
    needs one operator.
    """
    a, b, c, d, e = (f"__{number}" for number in numbers)
    body = helper.make_graph(
        [
            helper.make_node("Add", [f"carried{a}", f"Relu{b}:0"], [f"next{a}"]),
            helper.make_node("Identity", [f"go{a}"], [f"still{a}"]),
        ],
        f"body{a}",
        [
            helper.make_tensor_value_info(f"at{a}", TensorProto.INT64, ()),
            helper.make_tensor_value_info(f"go{a}", TensorProto.BOOL, ()),
            tensor(f"carried{a}"),
        ],
        [helper.make_tensor_value_info(f"still{a}", TensorProto.BOOL, ()), tensor(f"next{a}")],
    )
    nodes = [
        helper.make_node("Relu", ["x"], [f"Relu{b}:0"], f"Relu{b}"),
        helper.make_node("Relu", [f"negative{e}"], [f"Relu{c}:0"], f"Relu{c}"),
        helper.make_node("Neg", ["x"], [f"negative{e}"], f"Neg{e}"),
        helper.make_node(
            "Loop", [f"times{d}", f"go_on{d}", f"scaled{d}:0"], ["looped"], f"loop{d}", body=body
        ),
        helper.make_node("Mul", [f"Relu{c}:0", f"layer/kernel{e}"], [f"scaled{d}:0"], f"scale{d}"),
        helper.make_node("Sub", ["looped", f"layer/kernel{e}"], ["y"], f"last{a}"),
        helper.make_node("Abs", ["x"], [f"unused{a}"], f"Abs{a}"),
    ]
    weights = [
        numpy_helper.from_array(np.int64(3), f"times{d}"),
        numpy_helper.from_array(np.array(True), f"go_on{d}"),
        numpy_helper.from_array(np.float32([[2, 5]]), f"layer/kernel{e}"),
    ]
    graph = helper.make_graph([nodes[index] for index in order], "g", [tensor("x")], [tensor("y")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@given(
    st.lists(st.integers(0, 99), min_size=5, max_size=5, unique=True),
    st.permutations(range(7)),
)
def test_numbers_and_order_of_what_was_made_change_nothing(numbers: list[int], order: list[int]) -> None:
    model, plain = counted(numbers, order), counted([1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6])
    canonise(model)
    canonise(plain)
    assert model.SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)


def test_the_model_answers_as_before_and_keeps_the_names_that_say_something() -> None:
    model = counted([1, 2, 3, 4, 5], [2, 1, 0, 4, 3, 5, 6])
    onnx.checker.check_model(model, full_check=True)
    (before,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": _ROWS})
    canonise(model)
    onnx.checker.check_model(model, full_check=True)
    (after,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": _ROWS})
    assert (after == before).all()
    assert [node.op_type for node in model.graph.node] == ["Neg", "Relu", "Mul", "Relu", "Loop", "Sub"]
    assert [node.name for node in model.graph.node] == ["Neg", "Relu", "scale", "Relu_1", "loop", "last"]
    assert [weight.name for weight in model.graph.initializer] == ["constant", "constant_1", "layer/kernel"]


def test_a_deep_graph_is_ordered() -> None:
    depth = 5000
    names = ["x", *(f"between__{index}" for index in range(depth - 1)), "y"]
    nodes = [helper.make_node("Neg", [one], [other]) for one, other in pairwise(names)]
    graph = helper.make_graph(nodes[::-1], "deep", [tensor("x")], [tensor("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    canonise(model)
    assert model.graph.node[0].input == ["x"]
    assert model.graph.node[-1].output == ["y"]
    onnx.checker.check_model(model)
