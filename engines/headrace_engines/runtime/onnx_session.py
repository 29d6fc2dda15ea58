"""An ONNX file as ONNX Runtime opens it: its tensors, its execution with arrays, what its errors mean.

What computes it, the CPU or a GPU, is the business of the engines (`onnxruntime`, `onnxruntime_cuda`).
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn

import ml_dtypes
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from headrace_engines import files
from headrace_engines.agreement import agree
from headrace_engines.declaration import Declaration
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

Provider = str | tuple[str, dict[str, str]]
"""What executes operators, by ONNX Runtime's name, and its options."""
CPU: Final[tuple[Provider, ...]] = ("CPUExecutionProvider",)

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
_LOG_FATAL: Final = 4
_OUT_OF_MEMORY: Final = "Failed to allocate memory for requested buffer of size"
"""ONNX Runtime has no status code for this."""
_OUT_OF_GPU_MEMORY: Final = re.compile(
    r"CUDA failure 2: |CU\w+_STATUS_ALLOC_FAILED|Available memory of \d+ is smaller than requested bytes of"
)
"""What it says where a GPU has no more, or its share (`gpu_mem_limit`) is used up."""
_ZIPMAP_HINT: Final = (
    ": where skl2onnx wrote it, export with options={'zipmap': False}, which makes it a tensor; or list "
    "the other outputs in config.pbtxt, and this one is left out"
)
_MISSING_WEIGHTS: Final = re.compile(  # newer releases, and older ones
    r'(?:External data path does not exist: "|No such file or directory \[)([^"\]]*)["\]]'
)

# Each status code of the native library has an exception class of its own, without a common base.
NATIVE_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)


class OnnxSession:
    """An ONNX file, opened."""

    def __init__(
        self,
        path: Path,
        *,
        max_batch_size: int,
        declaration: Declaration,
        fuses: bool = True,
        providers: Sequence[Provider] = CPU,
        entries: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Load the file; weights that it keeps in files beside it are found there.

        `providers` come best first; `entries` are what the session is configured with besides.

        Raises ModelFileError when the file is missing, damaged or not as it was declared,
        UnsupportedModelError when it is whole and ONNX Runtime or the protocol lacks something that it
        uses.
        """
        self._session = _open(path, declaration.threads, fuses, providers, entries)
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

    @property
    def native(self) -> onnxruntime.InferenceSession:
        """What ONNX Runtime calls a session."""
        return self._session

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        """Execute arrays of the caller's own; strings may be text or UTF-8 bytes."""
        try:
            came = zip(self._input_names, arrays, strict=True)
            feed = {name: _as_text(array) for name, array in came if array is not None}
            if not self._has_bfloat16:
                return tuple(self._session.run(self._output_names, feed))
            values = {name: _ort_value(array) for name, array in feed.items()}
            return tuple(map(array_of, self._session.run_with_ort_values(self._output_names, values)))
        except NATIVE_ERRORS as error:
            fail(error)

    def bind(
        self,
        device: str,
        index: int,
        rows: int,
        inputs: Sequence[int],
        outputs: Sequence[int] | None,
    ) -> onnxruntime.IOBinding:
        """Return the session bound to so many rows at these addresses of a device, one per tensor.

        Without addresses for outputs, ONNX Runtime allocates them in the host's memory at every execution.
        """
        binding = self._session.io_binding()
        for tensor, address in zip(self.spec.inputs, inputs, strict=True):
            shape = (rows, *tensor.dims)
            binding.bind_input(tensor.name, device, index, _element_type(tensor.dtype), shape, address)
        if outputs is None:
            for name in self._output_names:
                binding.bind_output(name, "cpu")
            return binding
        for tensor, address in zip(self.spec.outputs, outputs, strict=True):
            shape = (rows, *tensor.dims)
            binding.bind_output(tensor.name, device, index, _element_type(tensor.dtype), shape, address)
        return binding

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


def array_of(value: onnxruntime.OrtValue) -> NDArray[Any]:
    """Return what an output holds; BF16 is copied by its address, since ONNX Runtime has no name for it."""
    if value.element_type() != _ONNX_BFLOAT16:
        array: NDArray[Any] = value.numpy()
        return array
    size_bytes = math.prod(value.shape()) * _BFLOAT16.itemsize
    raw = ctypes.string_at(value.data_ptr(), size_bytes)
    return np.frombuffer(raw, _BFLOAT16).reshape(value.shape())


def fail(error: Exception) -> NoReturn:
    """Raise what one of `NATIVE_ERRORS` means for the batch that met it."""
    text = str(error)
    if _OUT_OF_MEMORY in text:
        needed = text.partition(_OUT_OF_MEMORY)[2].strip()
        raise MemoryExhausted(f"ONNX Runtime: not enough memory: {needed} bytes were asked for") from error
    kind = MemoryExhausted if _OUT_OF_GPU_MEMORY.search(text) else ExecutionError
    raise kind(f"ONNX Runtime: {_reason(error)}") from error


def _open(
    path: Path, threads: int, fuses: bool, providers: Sequence[Provider], entries: Mapping[str, str]
) -> onnxruntime.InferenceSession:
    files.check(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not fuses:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _LOG_FATAL  # every error is raised as well, and logged where it is caught
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        # It would go on with other providers, and say so on stdout.
        return onnxruntime.InferenceSession(path, options, providers=list(providers), enable_fallback=0)
    except native.NotImplemented as error:
        raise UnsupportedModelError(f"{path.name}: ONNX Runtime: {_reason(error, path)}") from error
    except NATIVE_ERRORS as error:
        raise ModelFileError(f"{path.name}: ONNX Runtime cannot load it: {_fault(error, path)}") from error


def _declared(tensor: onnxruntime.NodeArg, path: Path, *, is_optional: bool = False) -> Declared:
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        hint = _ZIPMAP_HINT if tensor.type.startswith("seq(map(") else ""
        raise UnsupportedModelError(
            f"{path.name}: tensor {tensor.name!r} is of type {tensor.type}, not served here{hint}"
        )
    return Declared(tensor.name, dtype, tuple(tensor.shape), is_optional)


def _element_type(dtype: np.dtype[Any]) -> Any:
    """Return a dtype as bindings take it: NumPy's class, or ONNX's number for what NumPy lacks."""
    return _ONNX_BFLOAT16 if dtype == _BFLOAT16 else dtype.type


def _ort_value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    if array.dtype == _BFLOAT16:
        plain = np.ascontiguousarray(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, _ONNX_BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _as_text(array: NDArray[Any]) -> NDArray[Any]:
    """Return strings as ONNX Runtime takes them: it would read bytes objects as their Python notation."""
    if array.dtype != object:
        return array
    texts = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    return np.array(texts, dtype=object).reshape(array.shape)


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
    text = text.rpartition("Status Message: ")[2].partition(" ; GPU=")[0]
    if path is None:
        return text
    text = text.removeprefix(f"Load model from {path} failed:")
    # ONNX Runtime makes the names of weights' files absolute.
    return text.replace(f"{path.absolute().parent}/", "").replace(f"{path.resolve().parent}/", "")
