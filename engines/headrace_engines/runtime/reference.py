"""Plain NumPy as an engine: slow, simple, and shares nothing with the engines that serve.

It executes ONNX graphs by the reference implementation that the standard's own package carries, so
it is what answers are compared with. It needs the `build` extra.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from headrace_engines.errors import ExecutionError, ModelFileError, UnsupportedModelError
from headrace_engines.runtime.signature import Declared, model_spec
from headrace_engines.spec import ModelSpec

# What NumPy raises for values, sizes and types that an operator cannot take.
_EXECUTION_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class ReferenceEngine:
    """Executes an ONNX file operator by operator."""

    platform = "onnx_reference"
    slots = 1
    computes_on_caller = True
    device = None

    def __init__(self, path: Path, *, max_batch_size: int = 64) -> None:
        """Load the file.

        Raises ModelFileError when it is missing or damaged, UnsupportedModelError naming an operator
        or a type that is not among the standard's.
        """
        graph, self._evaluator = _open(path)
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [_declared(value, path) for value in graph.input if value.name not in weights]
        outputs = [_declared(value, path) for value in graph.output]
        self._input_names = [tensor.name for tensor in inputs]
        self.spec: ModelSpec = model_spec(inputs, outputs, max_batch_size, self.run)
        self._stage()

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return the staging buffers."""
        if not self.spec.is_staged:
            raise ValueError("this model has no staging buffers: its rows differ in size, or it has none")
        return self._inputs

    def submit(self, slot: int, rows: int) -> None:
        """Note how many rows to run; they are computed in `wait`."""
        if not 0 < rows <= self.spec.max_batch_size:
            raise ValueError(f"{rows} rows were submitted, expected 1 to {self.spec.max_batch_size}")
        self._pending_rows = rows

    def wait(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Execute what was submitted."""
        return self.run([buffer[: self._pending_rows] for buffer in self._inputs])

    def run(self, arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Execute arrays."""
        try:
            feed = dict(zip(self._input_names, arrays, strict=True))
            with np.errstate(all="ignore"):
                answers = self._evaluator.run(None, feed)
        except _EXECUTION_ERRORS as error:
            raise ExecutionError(f"reference: {error}") from error
        return tuple(np.asarray(answer) for answer in answers)

    def replicate(self) -> ReferenceEngine:
        """Return an engine with buffers of its own over the same graph, whose execution keeps no state."""
        twin = copy.copy(self)
        twin._stage()
        return twin

    def close(self) -> None:
        """Nothing is held."""

    def _stage(self) -> None:
        rows = self.spec.max_batch_size
        staged = self.spec.inputs if self.spec.is_staged else ()
        self._inputs = tuple(np.zeros((rows, *tensor.dims), tensor.dtype) for tensor in staged)
        self._pending_rows = 0


def _open(path: Path) -> tuple[onnx.GraphProto, ReferenceEvaluator]:
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelFileError(f"{path}: not an ONNX model: {error}") from error
    if not model.graph.node:
        raise ModelFileError(f"{path}: not an ONNX model: it has no graph")
    try:
        return model.graph, ReferenceEvaluator(model)
    except NotImplementedError as error:
        raise UnsupportedModelError(f"{path}: {error}") from error


def _declared(value: onnx.ValueInfoProto, path: Path) -> Declared:
    if value.type.WhichOneof("value") != "tensor_type":
        raise UnsupportedModelError(f"{path}: {value.name!r} is not a tensor, but {value.type}")
    tensor = value.type.tensor_type
    dims = tuple(
        dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None) for dim in tensor.shape.dim
    )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Declared(value.name, dtype, dims, is_untold=not tensor.HasField("shape"))
