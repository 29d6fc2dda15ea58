"""ONNX Runtime on the CPU, as an engine.

One slot, one thread. Each number of rows has a binding of its own, made at its first use: it points
the session at the first rows of the staging buffer and, where the outputs' sizes are fixed, at the
first rows of buffers for the answers, so that a batch costs neither copies nor allocations. That
takes 40 % off the cost of a small batch in `InferenceSession.run`; no other setting made a
measurable difference (bench/engine.py has the figures).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.runtime.onnx_session import NATIVE_ERRORS, OnnxSession, array_of, fail
from headrace_engines.spec import TensorSpec

_ALIGNMENT_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class _Bound:
    """A session bound to the first rows of the buffers; `outputs` is None where it allocates them."""

    binding: onnxruntime.IOBinding
    outputs: tuple[NDArray[Any], ...] | None


class OnnxRuntimeEngine(OnnxSession):
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
        """Load the file, as `OnnxSession` does.

        What was made for another runtime is judged without fusing operators for this one: some that
        ONNX Runtime fuses know no FP8 and answer otherwise.
        """
        super().__init__(path, max_batch_size=max_batch_size, declaration=declaration, fuses=fuses)
        self.computes_on_caller = declaration.threads == 1
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
            return bound.outputs or tuple(array_of(value) for value in bound.binding.get_outputs())
        except NATIVE_ERRORS as error:
            fail(error)

    def replicate(self) -> OnnxRuntimeEngine:
        """Return an engine with buffers of its own over the same session, which several threads may run."""
        twin = copy.copy(self)
        twin._stage()
        return twin

    def close(self) -> None:
        """Release the session, which goes with the last engine over it, and the buffers."""
        self._bound.clear()
        del self._session

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
        inputs = [buffer.ctypes.data for buffer in self._inputs]
        if self._outputs is None:
            return _Bound(self.bind("cpu", 0, rows, inputs, None), None)
        outputs = [buffer.ctypes.data for buffer in self._outputs]
        binding = self.bind("cpu", 0, rows, inputs, outputs)
        return _Bound(binding, tuple(buffer[:rows] for buffer in self._outputs))


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros whose first byte lies on a cache line."""
    size_bytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size_bytes].view(dtype).reshape(shape)
