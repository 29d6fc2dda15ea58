"""ONNX Runtime on a GPU, as an engine: what serves there until a plan does, or where none can be built.

The session puts its work into the engine's own stream and waits for nothing. Each slot and batch size has a
binding of its own to the slot's buffers on the GPU, so that a batch costs ONNX Runtime neither copies nor
allocations. Its arena grows as the first batches of each size take memory beside them, and keeps that.

Operators that stay on the CPU read and write beside the stream. A model with such is waited for: before an
execution until its rows are on the GPU, and in it until its answers are.

Sessions are not shared between instances: a session has one stream. ONNX Runtime can also capture CUDA
graphs; that needs a session for each size, and every operator on the GPU, and is left to plans.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime
from numpy.typing import NDArray

from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.errors import (
    DeviceError,
    EngineError,
    EngineSpoilt,
    MemoryExhausted,
    UnsupportedModelError,
)
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.cuda.driver import Driver
from headrace_engines.runtime.gpu_sizes import chosen_sizes, fitting_sizes
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.lifetimes import keep_for_ever, let_go
from headrace_engines.runtime.onnx_provider import ProviderFile, available
from headrace_engines.runtime.onnx_session import NATIVE_ERRORS, OnnxSession, fail
from headrace_engines.runtime.staged import Arrays, StagedEngine
from headrace_engines.runtime.staging import Staging
from headrace_engines.spec import ModelSpec

__all__ = ["OnnxRuntimeCudaEngine", "available"]

_EXECUTIONS: Final = 3
"""Of each size at load: the quickest is what it takes, since the first ones find the algorithms."""
_UNWAITED: Final = ("disable_synchronize_execution_providers", "1")


class OnnxRuntimeCudaEngine(StagedEngine):
    """Executes an ONNX file on a GPU."""

    platform = "onnxruntime_onnx"

    def __init__(
        self,
        path: Path,
        *,
        gpu: Gpu,
        max_batch_size: int = 64,
        declaration: Declaration = NOTHING_DECLARED,
    ) -> None:
        """Load the file, choose its batch sizes, and execute each of them.

        The engine takes over the GPU, and closes it also if this fails. The file is opened on the CPU first,
        to see its tensors. Takes seconds. Raises ModelFileError and UnsupportedModelError as `OnnxSession`
        does, UnsupportedModelError also where ONNX Runtime cannot start its CUDA provider, MemoryExhausted
        with the numbers, EngineSpoilt or DeviceError.
        """
        self._file = ProviderFile(path, max_batch_size, declaration)
        try:
            seen = OnnxSession(path, max_batch_size=max_batch_size, declaration=declaration, fuses=False)
            self.found: ModelSpec = seen.found
            """What the file has, whatever was declared."""
            # Rows of an output that differ in size have no place in a buffer.
            takes_arrays = not all(tensor.is_fixed for tensor in seen.spec.outputs)
            super().__init__(gpu, dataclasses.replace(seen.spec, takes_arrays=takes_arrays))
            del seen
            self._begin()
        except BaseException:
            gpu.close()
            raise

    def renew(self) -> None:
        """Begin anew in a fresh context, as `StagedEngine` does.

        Raises DeviceError also where ONNX Runtime, or a library of its, does not work in another context.
        """
        try:
            super().renew()
        except (UnsupportedModelError, MemoryExhausted) as error:
            raise DeviceError(f"ONNX Runtime does not begin anew on GPU {self.gpu}: {error}") from error

    def _made(self, holdings: Holdings, staging: Staging | None) -> _Session:
        return _Session(self._file, self._gpu, self.spec, holdings, staging, self._sizes)


class _Session:
    """A session in one context of the GPU."""

    def __init__(
        self,
        file: ProviderFile,
        gpu: Gpu,
        spec: ModelSpec,
        holdings: Holdings,
        staging: Staging | None,
        sizes: tuple[int, ...],
    ) -> None:
        """`sizes` are the batch sizes as they were chosen by measurement; () has them chosen."""
        self._file = file
        self._gpu = gpu
        self._spec = spec
        self._holdings = holdings
        self._staging = staging
        self._sizes = sizes
        self._use = gpu.use(0)
        self._opened: OnnxSession | None = None
        self._bound: dict[tuple[int, int], onnxruntime.IOBinding] = {}
        self._options = onnxruntime.RunOptions()
        self._placed: Any = None
        """The event that a batch's rows are on the GPU, where that is waited for."""

    def open(self, generation: int) -> tuple[int, ...]:
        """Load the file, bind every slot at every batch size, and execute each size."""
        self._use = self._gpu.use(generation)
        try:
            with self._gpu.load(generation) as driver:
                try:
                    self._open(driver)
                except BaseException as error:
                    let_go(error)  # a session must end here, where the GPU's context is
                    raise
            return self._ready_sizes(self._staging) if self._staging else ()
        except EngineError as error:
            raise self._failure(error) from error

    def enqueue(self, driver: Driver, slot: int, size: int) -> None:
        """Have the session put its work into the computing stream, or do it where some is the CPU's."""
        if self._placed is not None and self._staging is not None:
            driver.record(self._placed, self._staging.computing)
            driver.synchronize(self._placed)
        try:
            self._session.native.run_with_iobinding(self._bound[slot, size], self._options)
        except NATIVE_ERRORS as error:
            fail(error)

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> Arrays:
        """Execute arrays, which ONNX Runtime copies, and wait."""
        # As a step of a load: at a shape not executed yet, algorithms are sought and kernels compiled.
        with self._gpu.load(self._use.generation) as driver:
            try:
                return self._session.run(arrays)
            except EngineError:
                driver.free_bytes()  # raises what the GPU met, which tells more
                raise

    def close(self) -> None:
        """Let ONNX Runtime give everything back while the context is there."""
        with self._use:
            self._bound.clear()
            self._opened = None

    def abandon(self) -> None:
        """Keep the session for good: ended, it would free by addresses what is others' by now."""
        if self._opened is not None:
            keep_for_ever(self._opened)
        self._bound.clear()
        self._opened = None

    @property
    def _session(self) -> OnnxSession:
        if self._opened is None:
            raise EngineSpoilt("the session was closed", was_executed=False)
        return self._opened

    def _open(self, driver: Driver) -> None:
        stream = None if self._staging is None else self._staging.computing.handle
        session = self._opened = self._file.open(self._gpu.facts.index, stream)
        if self._file.uses_cpu(session):
            self._placed = self._holdings.event(driver)
        else:
            self._options.add_run_config_entry(*_UNWAITED)

    def _ready_sizes(self, staging: Staging) -> tuple[int, ...]:
        for buffer in staging.inputs(0):
            buffer[...] = 0  # anything else might be an index that is out of range
        timed = functools.partial(self._timed, staging)
        if self._sizes:
            sizes = tuple(sorted(fitting_sizes(self._sizes, timed)))
        else:
            sizes = chosen_sizes(1, self._spec.max_batch_size, timed)
        for slot in range(1, staging.slots):
            for size in sizes:
                self._bind(staging, slot, size)
        return sizes

    def _timed(self, staging: Staging, size: int) -> float:
        """Make a size ready in the first slot, and return how many milliseconds it takes to compute."""
        with self._gpu.load(self._use.generation) as driver, self._holdings.counting(driver):
            self._bind(staging, 0, size)
            took = [self._measured(driver, staging, size)]  # in which the arena grows
        for _ in range(1, _EXECUTIONS):
            with self._use as driver:
                took.append(self._measured(driver, staging, size))
        return min(took)

    def _measured(self, driver: Driver, staging: Staging, size: int) -> float:
        staging.launch(driver, 0, size, functools.partial(self.enqueue, driver, 0, size))
        staging.collect(driver, 0)
        times = staging.times(0)
        return times.compute_ns / 1e6 if times else 0.0

    def _bind(self, staging: Staging, slot: int, size: int) -> None:
        inputs, outputs = ([buffer.address for buffer in side] for side in staging.buffers(slot))
        self._bound[slot, size] = self._session.bind("cuda", self._gpu.facts.index, size, inputs, outputs)

    def _failure(self, error: EngineError) -> EngineError:
        """Return what it means that the file, which is known to be whole, cannot be opened here.

        Raises what the GPU has met, if that was the cause.
        """
        if isinstance(error, (EngineSpoilt, DeviceError)):
            return error
        with self._use as driver:
            free_bytes = driver.free_bytes()
        if isinstance(error.__cause__, NATIVE_ERRORS) and not isinstance(error, MemoryExhausted):
            try:
                fail(error.__cause__)
            except MemoryExhausted as shortage:
                error = shortage
            except EngineError:
                pass
        index, total_bytes = self._gpu.facts.index, self._gpu.facts.total_bytes
        if isinstance(error, MemoryExhausted):
            return MemoryExhausted(f"{error}; {free_bytes} of {total_bytes} bytes of GPU {index} are free")
        return UnsupportedModelError(f"on GPU {index}: {error}")
