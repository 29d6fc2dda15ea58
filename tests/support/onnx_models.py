"""Small ONNX models, each with one trait that an engine has to get right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

Dims = Sequence[int | str | None] | None
Tensors = Mapping[str, tuple[int, Dims]]

_ROWS = {"x": (TensorProto.FLOAT, ("N", 3))}
_ANSWERS = {"y": (TensorProto.FLOAT, ("N", 3))}


class Models:
    """Writes models into a folder, each a file of its own; every method returns the file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def save(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Tensors = _ROWS,
        outputs: Tensors = _ANSWERS,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> Path:
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
            [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = self._folder / f"{next(self._numbers)}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def unary(
        self, operator: str, kind: int, dims: Dims = ("N", 3), out_dims: Dims = ("N", 3), **attributes: Any
    ) -> Path:
        """One operator from `x` to `y`."""
        node = helper.make_node(operator, ["x"], ["y"], **attributes)
        return self.save([node], {"x": (kind, dims)}, {"y": (kind, out_dims)})

    def mlp(self, widths: Sequence[int] = (4, 8, 3), seed: int = 0) -> Path:
        random = np.random.default_rng(seed)
        nodes = []
        weights = {}
        current = "x"
        for layer, (wide_in, wide_out) in enumerate(pairwise(widths)):
            last = layer == len(widths) - 2
            weights[f"w{layer}"] = random.standard_normal((wide_in, wide_out)).astype(np.float32)
            weights[f"b{layer}"] = random.standard_normal(wide_out).astype(np.float32)
            to = "y" if last else f"h{layer}"
            nodes.append(helper.make_node("Gemm", [current, f"w{layer}", f"b{layer}"], [to]))
            if not last:
                nodes.append(helper.make_node("Relu", [to], [f"r{layer}"]))
                current = f"r{layer}"
        return self.save(
            nodes,
            {"x": (TensorProto.FLOAT, ("N", widths[0]))},
            {"y": (TensorProto.FLOAT, ("N", widths[-1]))},
            weights,
        )

    def adding(self, number: float) -> Path:
        """Adds a number to each element, by which its answers are told from those of its likes."""
        node = helper.make_node("Add", ["x", "number"], ["y"])
        return self.save([node], weights={"number": np.array(number, np.float32)})

    def compressed(self, kind: int) -> Path:
        """Takes columns 0 and 2, of which the file does not tell how many they are."""
        return self.save(
            [
                helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
                helper.make_node("Compress", ["wide", "chosen"], ["narrow"], axis=1),
                helper.make_node("Cast", ["narrow"], ["y"], to=kind),
            ],
            {"x": (kind, ("N", 3))},
            {"y": (kind, (None, None))},
            {"chosen": np.array([True, False, True])},
        )

    def embedding(self) -> Path:
        """Two inputs and two outputs of different types; words 0 to 6 are known."""
        nodes = [
            helper.make_node("Gather", ["table", "word"], ["row"]),
            helper.make_node("Add", ["x", "row"], ["score"]),
            helper.make_node("ArgMax", ["score"], ["label"], axis=1, keepdims=0),
        ]
        return self.save(
            nodes,
            {**_ROWS, "word": (TensorProto.INT64, ("N",))},
            {"score": (TensorProto.FLOAT, ("N", 3)), "label": (TensorProto.INT64, ("N",))},
            {"table": np.arange(21, dtype=np.float32).reshape(7, 3)},
        )

    def reshaped(self, to: tuple[int, ...], out_dims: Dims) -> Path:
        """Rows of four in, the shape `to` out."""
        return self.save(
            [helper.make_node("Reshape", ["x", "to"], ["y"])],
            {"x": (TensorProto.FLOAT, ("N", 4))},
            {"y": (TensorProto.FLOAT, out_dims)},
            {"to": np.array(to)},
        )

    def dynamically_quantised(self) -> Path:
        path = self._folder / f"{next(self._numbers)}.onnx"
        quantize_dynamic(self.mlp((16, 32, 4)), path)
        return path

    def normalised_over_batch(self) -> Path:
        return self.save([_mean(), helper.make_node("Sub", ["x", "mean"], ["y"])])

    def cumulative(self) -> Path:
        node = helper.make_node("CumSum", ["x", "axis"], ["y"])
        return self.save([node], weights={"axis": np.array(0, np.int64)})

    def gram(self) -> Path:
        """As wide as the batch is long: its first axis is no batch."""
        nodes = [
            helper.make_node("Transpose", ["x"], ["t"]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ]
        return self.save(nodes, outputs={"y": (TensorProto.FLOAT, ("N", None))})

    def repeated(self) -> Path:
        """Repeats each row as often as there are rows."""
        nodes = [
            helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            helper.make_node("Concat", ["once", "rows"], ["repeats"], axis=0),
            helper.make_node("Tile", ["x", "repeats"], ["y"]),
        ]
        return self.save(
            nodes, outputs={"y": (TensorProto.FLOAT, ("N", None))}, weights={"once": np.array([1])}
        )

    def faintly_dependent(self) -> Path:
        """Each row takes a millionth of the batch's mean."""
        nodes = [
            _mean(),
            helper.make_node("Mul", ["mean", "share"], ["faint"]),
            helper.make_node("Add", ["x", "faint"], ["y"]),
        ]
        return self.save(nodes, weights={"share": np.array(1e-6, np.float32)})

    def boundedly_dependent(self) -> Path:
        """However large a neighbour is, it moves the others by one part in 10,000 at most."""
        nodes = [
            _mean(),
            helper.make_node("Tanh", ["mean"], ["bounded"]),
            helper.make_node("Mul", ["bounded", "share"], ["faint"]),
            helper.make_node("Add", ["x", "faint"], ["y"]),
        ]
        return self.save(nodes, weights={"share": np.array(1e-4, np.float32)})

    def position_dependent(self) -> Path:
        """Adds each row's place in the batch."""
        nodes = [
            helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            helper.make_node("Squeeze", ["rows"], ["count"]),
            helper.make_node("Range", ["zero", "count", "one"], ["place"]),
            helper.make_node("Unsqueeze", ["place", "last"], ["column"]),
            helper.make_node("Cast", ["column"], ["offset"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "offset"], ["y"]),
        ]
        weights = {"zero": np.array(0), "one": np.array(1), "last": np.array([1])}
        return self.save(nodes, weights=weights)

    def vote(self) -> Path:
        """A class for each row, in which the whole batch has a say."""
        nodes = [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["x", "sum"], ["score"]),
            helper.make_node("ArgMax", ["score"], ["y"], axis=1, keepdims=0),
        ]
        return self.save(nodes, outputs={"y": (TensorProto.INT64, ("N",))})

    def random(self) -> Path:
        """Answers differently at every execution."""
        nodes = [
            helper.make_node("RandomNormalLike", ["x"], ["noise"]),
            helper.make_node("Add", ["x", "noise"], ["y"]),
        ]
        return self.save(nodes)


def _mean() -> onnx.NodeProto:
    return helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("onnx_models"))
