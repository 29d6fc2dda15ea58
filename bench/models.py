"""The models that every server under test runs, and the one request that each is sent."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from headrace_proto.tensors import to_raw
from headrace_proto.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT: Final = "x"
OUTPUT: Final = "y"


@dataclass(frozen=True, slots=True)
class Network:
    """A perceptron with ReLU between its layers; an image comes to it as the means of its channels."""

    name: str
    shape: tuple[int, ...]
    """Of a row of the input: features, or the channels, height and width of an image."""
    widths: tuple[int, ...]
    """From the numbers that the first layer takes to the classes."""

    @property
    def classes(self) -> int:
        """Numbers in a row of the output."""
        return self.widths[-1]


MODELS: Final[Mapping[str, Network]] = {
    model.name: model
    for model in (
        Network("mlp-small", (100,), (100, 50, 10)),  # the cost of the call is all there is
        Network("mlp-large", (784,), (784, 1024, 1024, 10)),  # a batch costs little more than a row
        Network("image", (3, 224, 224), (3, 10)),  # 602 kB to carry, and nothing to compute
    )
}


def write_repository(root: Path, models: Iterable[Network]) -> None:
    """Write `root`/NAME/1/model.onnx for each model, the same bytes every time."""
    import onnx  # whoever only sends requests, as on a machine with a GPU, may lack it

    for model in models:
        version = root / model.name / "1"
        version.mkdir(parents=True)
        onnx.save(_graph(model), version / "model.onnx")


def request(model: Network, request_id: str = "", count: int = 1) -> bytes:
    """Return a ModelInferRequest with so many rows."""
    message = pb.ModelInferRequest(model_name=model.name, id=request_id)
    message.inputs.add(name=INPUT, datatype="FP32", shape=(count, *model.shape))
    message.raw_input_contents.append(to_raw(rows(model, count)))
    return message.SerializeToString()


def rows(model: Network, count: int = 1) -> NDArray[np.float32]:
    """Return the rows that all requests of that many carry."""
    return np.random.default_rng(1).standard_normal((count, *model.shape), np.float32)


def _graph(model: Network) -> ModelProto:
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights = [], []
    source = INPUT
    if len(model.shape) > 1:
        nodes.append(helper.make_node("GlobalAveragePool", [INPUT], ["pooled"]))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["means"]))
        source = "means"
    last = len(model.widths) - 2
    for layer, (width, next_width) in enumerate(itertools.pairwise(model.widths)):
        scale = np.float32((2 / width) ** 0.5)
        weight = rng.standard_normal((width, next_width), np.float32) * scale
        bias = np.zeros(next_width, np.float32)
        weights += [numpy_helper.from_array(weight, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        target = OUTPUT if layer == last else f"sum{layer}"
        nodes.append(helper.make_node("Gemm", [source, f"w{layer}", f"b{layer}"], [target]))
        if layer != last:
            source = f"relu{layer}"
            nodes.append(helper.make_node("Relu", [target], [source]))
    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *model.shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", model.classes])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(proto)
    return proto
