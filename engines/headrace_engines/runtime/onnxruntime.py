"""ONNX Runtime on the CPU, as an engine.

One slot, one thread. Each number of rows has a binding of its own, made at its first use: it points
the session at the first rows of the staging buffer and, where the outputs' sizes are fixed, at the
first rows of buffers for the answers, so that a batch costs neither copies nor allocations. That
takes 40 % off the cost of a small batch in `InferenceSession.run`; no other setting made a
measurable difference (bench/engine.py has the figures).
"""

from __future__ import annotations

import copy
import ctypes
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import ml_dtypes
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from headrace_engines import files
from headrace_engines.agreement import agree
from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.errors import (
    ExecutionError,
    MemoryExhausted,
    ModelFileError,
    UnsupportedModelError,
)
from headrace_engines.runtime.scalars import scalars
from headrace_engines.runtime.signature import Declared, model_spec
from headrace_engines.runtime.untold_shapes import with_told_shapes
from headrace_engines.spec import ModelSpec, TensorSpec

_BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)
_ONNX_BFLOAT16: Final = 16

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bfloat16)": _BFLOAT16,
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(string)": np.dtype(object),
}
_ALIGNMENT_BYTES: Final = 64
_LOG_FATAL: Final = 4
_OUT_OF_MEMORY: Final = "Failed to allocate memory for requested buffer of size"
"""ONNX Runtime has no status code for this."""
_ZIPMAP_HINT: Final = (
    ": where skl2onnx wrote it, export with options={'zipmap': False}, which makes it a tensor; or list "
    "the other outputs in config.pbtxt, and this one is left out"
)
_MISSING_WEIGHTS: Final = re.compile(  # newer releases, and older ones
    r'(?:External data path does not exist: "|No such file or directory \[)([^"\]]*)["\]]'
)

# Each status code of the native library has an exception class of its own, without a common base.
_NATIVE_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class _Bound:
    """A session bound to the first rows of the buffers; `outputs` is None where it allocates them."""

    binding: onnxruntime.IOBinding
    outputs: tuple[NDArray[Any], ...] | None


class OnnxRuntimeEngine:
    """Executes an ONNX file on the CPU, on the calling thread alone."""

    platform = "onnxruntime_onnx"
    slots = 1
    device = None

    def __init__(
        self,
        path: Path,
        *,
        max_batch_size: int = 64,
        declaration: Declaration = NOTHING_DECLARED,
        fuses: bool = True,
    ) -> None:
        """Load the file; weights that it keeps in files beside it are found there.

        What was made for another runtime is judged without fusing operators for this one: some that
        ONNX Runtime fuses know no FP8 and answer otherwise.

        Raises ModelFileError when the file is missing, damaged or not as it was declared,
        UnsupportedModelError when it is whole and ONNX Runtime or the protocol lacks something that it
        uses.
        """
        self._session = _open(path, declaration.threads, fuses)
        self.computes_on_caller = declaration.threads == 1
        inputs = [_declared(tensor, path) for tensor in self._session.get_inputs()]
        inputs += [_declared(tensor, path, is_optional=True) for tensor in self._replaceable(declaration)]
        outputs = [_declared(tensor, path) for tensor in self._wanted(declaration)]
        inputs, outputs = with_told_shapes(inputs, outputs, declaration, lambda: scalars(path))
        self._name_tensors(inputs, outputs)
        self._has_bfloat16 = any(tensor.dtype == _BFLOAT16 for tensor in (*inputs, *outputs))
        self.found: ModelSpec = model_spec(inputs, outputs, max_batch_size, self.run)
        """What the file has, whatever was declared."""
        self.spec: ModelSpec = agree(self.found, declaration)
        self._name_tensors(self.spec.inputs, self.spec.outputs)
        self._stage()

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return the staging buffers, aligned to cache lines."""
        if not self.spec.is_staged:
            raise ValueError("this model has no staging buffers: its rows differ in size, or it has none")
        return self._inputs

    def submit(self, slot: int, rows: int) -> None:
        """Note how many rows to run; they are computed in `wait`, on the thread that calls it."""
        if rows not in self._bound:
            self._bound[rows] = self._bind(rows)
        self._pending_rows = rows

    def wait(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Execute what was submitted."""
        bound = self._bound[self._pending_rows]
        try:
            self._session.run_with_iobinding(bound.binding)
            return bound.outputs or tuple(_array(value) for value in bound.binding.get_outputs())
        except _NATIVE_ERRORS as error:
            _fail(error)

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        """Execute arrays of the caller's own; strings may be text or UTF-8 bytes."""
        try:
            came = zip(self._input_names, arrays, strict=True)
            feed = {name: _as_text(array) for name, array in came if array is not None}
            if not self._has_bfloat16:
                return tuple(self._session.run(self._output_names, feed))
            values = {name: _ort_value(array) for name, array in feed.items()}
            return tuple(map(_array, self._session.run_with_ort_values(self._output_names, values)))
        except _NATIVE_ERRORS as error:
            _fail(error)

    def replicate(self) -> OnnxRuntimeEngine:
        """Return an engine with buffers of its own over the same session, which several threads may run."""
        twin = copy.copy(self)
        twin._stage()
        return twin

    def close(self) -> None:
        """Release the session, which goes with the last engine over it, and the buffers."""
        self._bound.clear()
        del self._session

    def _replaceable(self, declaration: Declaration) -> list[onnxruntime.NodeArg]:
        """Return the declared inputs for which the file has a value that a caller's may replace."""
        said = {tensor.name for tensor in declaration.inputs}
        return [tensor for tensor in self._session.get_overridable_initializers() if tensor.name in said]

    def _wanted(self, declaration: Declaration) -> list[onnxruntime.NodeArg]:
        """Return the outputs, without those that need not be servable because others were declared."""
        said = {tensor.name for tensor in declaration.outputs}
        outputs = self._session.get_outputs()
        return [tensor for tensor in outputs if not said or tensor.name in said or tensor.type in _DTYPES]

    def _name_tensors(
        self, inputs: Sequence[Declared | TensorSpec], outputs: Sequence[Declared | TensorSpec]
    ) -> None:
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]

    def _stage(self) -> None:
        self._bound: dict[int, _Bound] = {}
        self._pending_rows = 0
        self._inputs = self._buffers(self.spec.inputs) if self.spec.is_staged else ()
        fixed = self.spec.is_staged and all(tensor.is_fixed for tensor in self.spec.outputs)
        self._outputs = self._buffers(self.spec.outputs) if fixed else None

    def _buffers(self, tensors: Sequence[TensorSpec]) -> tuple[NDArray[Any], ...]:
        rows = self.spec.max_batch_size
        return tuple(_aligned((rows, *tensor.dims), tensor.dtype) for tensor in tensors)

    def _bind(self, rows: int) -> _Bound:
        if not 0 < rows <= self.spec.max_batch_size:
            raise ValueError(f"{rows} rows were submitted, expected 1 to {self.spec.max_batch_size}")
        binding = self._session.io_binding()
        for name, buffer in zip(self._input_names, self._inputs, strict=True):
            shape = (rows, *buffer.shape[1:])
            binding.bind_input(name, "cpu", 0, _element_type(buffer.dtype), shape, buffer.ctypes.data)
        if self._outputs is None:
            for name in self._output_names:
                binding.bind_output(name, "cpu")
            return _Bound(binding, None)
        for name, buffer in zip(self._output_names, self._outputs, strict=True):
            shape = (rows, *buffer.shape[1:])
            binding.bind_output(name, "cpu", 0, _element_type(buffer.dtype), shape, buffer.ctypes.data)
        return _Bound(binding, tuple(buffer[:rows] for buffer in self._outputs))


def _open(path: Path, threads: int, fuses: bool) -> onnxruntime.InferenceSession:
    files.check(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not fuses:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _LOG_FATAL  # every error is raised as well, and logged where it is caught
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except native.NotImplemented as error:
        raise UnsupportedModelError(f"{path.name}: ONNX Runtime: {_reason(error, path)}") from error
    except _NATIVE_ERRORS as error:
        raise ModelFileError(f"{path.name}: ONNX Runtime cannot load it: {_fault(error, path)}") from error


def _declared(tensor: onnxruntime.NodeArg, path: Path, *, is_optional: bool = False) -> Declared:
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        hint = _ZIPMAP_HINT if tensor.type.startswith("seq(map(") else ""
        raise UnsupportedModelError(
            f"{path.name}: tensor {tensor.name!r} is of type {tensor.type}, not served here{hint}"
        )
    return Declared(tensor.name, dtype, tuple(tensor.shape), is_optional)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros whose first byte lies on a cache line."""
    size_bytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size_bytes].view(dtype).reshape(shape)


def _element_type(dtype: np.dtype[Any]) -> Any:
    """Return a dtype as bindings take it: NumPy's class, or ONNX's number for what NumPy lacks."""
    return _ONNX_BFLOAT16 if dtype == _BFLOAT16 else dtype.type


def _ort_value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    if array.dtype == _BFLOAT16:
        plain = np.ascontiguousarray(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, _ONNX_BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    """Return what an output holds; BF16 is copied by its address, since ONNX Runtime has no name for it."""
    if value.element_type() != _ONNX_BFLOAT16:
        array: NDArray[Any] = value.numpy()
        return array
    size_bytes = math.prod(value.shape()) * _BFLOAT16.itemsize
    raw = ctypes.string_at(value.data_ptr(), size_bytes)
    return np.frombuffer(raw, _BFLOAT16).reshape(value.shape())


def _as_text(array: NDArray[Any]) -> NDArray[Any]:
    """Return strings as ONNX Runtime takes them: it would read bytes objects as their Python notation."""
    if array.dtype != object:
        return array
    texts = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    return np.array(texts, dtype=object).reshape(array.shape)


def _fail(error: Exception) -> NoReturn:
    if _OUT_OF_MEMORY in (text := str(error)):
        needed = text.partition(_OUT_OF_MEMORY)[2].strip()
        raise MemoryExhausted(f"ONNX Runtime: not enough memory: {needed} bytes were asked for") from error
    raise ExecutionError(f"ONNX Runtime: {_reason(error)}") from error


def _fault(error: Exception, path: Path) -> str:
    """Return what is wrong with a file that cannot be loaded, with what the file itself tells of it."""
    reason = _reason(error, path)
    if missing := _MISSING_WEIGHTS.search(reason):
        name = missing[1].removeprefix(f"{path.parent}/")
        return f"its weights are in {name!r}, which is not there: put that file beside it"
    is_whole = path.stat().st_size and not isinstance(error, native.InvalidProtobuf)
    return reason if is_whole else f"{reason.rstrip('.')}: {files.nature(path)}"


def _reason(error: Exception, path: Path | None = None) -> str:
    """Return what ONNX Runtime says, without the status codes that it puts in front, and without folders."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    text = text.rpartition("Status Message: ")[2]
    if path is None:
        return text
    text = text.removeprefix(f"Load model from {path} failed:")
    # ONNX Runtime makes the names of weights' files absolute.
    return text.replace(f"{path.absolute().parent}/", "").replace(f"{path.resolve().parent}/", "")
