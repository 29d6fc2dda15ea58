"""Plans whose inputs differ in size from one request to the next, or have no batch axis.

They are executed one at a time, in one execution context, through buffers for the largest inputs that the
profiles take. No graph is captured, since each size would need its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import ExecutionError
from headrace_engines.runtime.cuda.driver import Bytes, CudaError, Driver, Fault, Stream
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.lifetimes import keep_for_ever, let_go
from headrace_engines.runtime.staged import Arrays
from headrace_engines.runtime.tensorrt.execution import enqueue, set_addresses, set_shapes
from headrace_engines.runtime.tensorrt.plan import LoadedPlan, Plan
from headrace_engines.runtime.tensorrt.tensors import PlanTensor, Shape
from headrace_engines.spec import ModelSpec


class Unstaged:
    """One instance's execution context and buffers, in one context of the GPU."""

    def __init__(self, plan: Plan, spec: ModelSpec, holdings: Holdings) -> None:
        """`spec` has the plan's tensors, or fewer outputs."""
        self._plan = plan
        self._spec = spec
        self._holdings = holdings
        self._generation = 0
        self._loaded: LoadedPlan | None = None
        self._context: Any = None
        self._stream: Stream | None = None
        self._done: Any = None
        self._buffers: dict[str, tuple[Bytes, int]] = {}

    def open(self, generation: int) -> tuple[int, ...]:
        """Make the context, and the buffers for the largest inputs."""
        self._generation = generation
        loaded = self._loaded = self._plan.open(generation)
        with self._plan.gpu.load(generation) as driver:
            try:
                self._reserve(loaded, driver)
            except BaseException as error:
                # The context ends where the GPU's is, and not with the frames of the error.
                let_go(error)
                raise
        return ()

    def enqueue(self, driver: Driver, slot: int, size: int) -> None:
        """Not for what has no slots."""
        raise ValueError("this model has no slots")

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> Arrays:
        """Copy in, execute, copy out, and wait. Raises ExecutionError for sizes that no profile takes."""
        came = {
            t.name: array for t, array in zip(self._spec.inputs, arrays, strict=True) if array is not None
        }
        # As a step of a load: what TensorRT for RTX has not executed yet, it compiles.
        with self._plan.gpu.load(self._generation) as driver:
            loaded, stream = self._loaded, self._stream
            if loaded is None or stream is None:
                raise ValueError("the engine is closed")
            shapes = {name: array.shape for name, array in came.items()}
            outputs = set_shapes(loaded.tensors, self._context, shapes, stream.handle)
            answers = self._answers(loaded, outputs)
            for name, array in came.items():
                self._host(name, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            try:
                self._execute(driver, stream, came, answers)
            finally:
                self._wait(driver, stream)
            return tuple(answers[tensor.name].copy() for tensor in self._spec.outputs)

    def close(self) -> None:
        """Let go of the context, and of the plan."""
        if self._loaded is None:
            return
        with self._plan.gpu.use(self._generation):
            self._context = None
        self._loaded = None
        self._plan.close(self._generation)

    def abandon(self) -> None:
        """Have the context outlive everything."""
        keep_for_ever(self._context)
        self._context = self._loaded = None

    def _reserve(self, loaded: LoadedPlan, driver: Driver) -> None:
        self._stream = self._holdings.stream(driver)
        self._done = self._holdings.event(driver)
        with self._holdings.counting(driver):
            self._context = loaded.context(driver)
        if size_bytes := int(loaded.engine.device_memory_size_v2):
            self._context.set_device_memory(self._holdings.memory(size_bytes), size_bytes)
        needed: dict[str, int] = {}
        for profile in loaded.tensors.profiles:
            largest = {name: most for name, (_, _, most) in profile.shapes.items()}
            shapes = largest | set_shapes(loaded.tensors, self._context, largest, self._stream.handle)
            for tensor in (*loaded.tensors.inputs, *loaded.tensors.outputs):
                size_bytes = math.prod(shapes[tensor.name]) * tensor.dtype.itemsize
                needed[tensor.name] = max(needed.get(tensor.name, 0), size_bytes)
        for name, size_bytes in needed.items():
            self._buffers[name] = self._holdings.pinned(size_bytes), self._holdings.memory(size_bytes)
        set_addresses(self._context, {name: address for name, (_, address) in self._buffers.items()})

    def _answers(self, loaded: LoadedPlan, shapes: Mapping[str, Shape]) -> dict[str, NDArray[Any]]:
        """Return where the outputs of these shapes will be, on the host."""
        return {tensor.name: self._view(tensor, shapes[tensor.name]) for tensor in loaded.tensors.outputs}

    def _view(self, tensor: PlanTensor, shape: Shape) -> NDArray[Any]:
        size_bytes = math.prod(shape) * tensor.dtype.itemsize
        return self._host(tensor.name, size_bytes).view(tensor.dtype).reshape(shape)

    def _host(self, name: str, size_bytes: int) -> Bytes:
        host, _ = self._buffers[name]
        if size_bytes > len(host):
            raise ExecutionError(
                f"{name!r} takes {size_bytes} bytes, and with the largest inputs {len(host)}: too many"
            )
        return host[:size_bytes]

    def _execute(
        self,
        driver: Driver,
        stream: Stream,
        came: Mapping[str, NDArray[Any]],
        answers: Mapping[str, NDArray[Any]],
    ) -> None:
        for name, array in came.items():
            driver.copy_in(self._buffers[name][1], self._host(name, array.nbytes), stream)
        enqueue(self._context, stream.handle)
        for tensor in self._spec.outputs:
            name = tensor.name
            driver.copy_out(self._host(name, answers[name].nbytes), self._buffers[name][1], stream)

    def _wait(self, driver: Driver, stream: Stream) -> None:
        """Wait for the stream: if that cannot be done, the buffers cannot be used again."""
        try:
            driver.record(self._done, stream)
            driver.synchronize(self._done)
        except CudaError as error:
            if error.fault not in (Fault.CALL, Fault.MEMORY):
                raise
            text = "what is in flight cannot be waited for"
            raise CudaError("cuEventSynchronize", error.name, Fault.CONTEXT, text) from error
