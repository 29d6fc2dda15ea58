"""A plan as the library has loaded it: once on each GPU, for all instances of the model there.

The weights are its own; what an execution needs besides belongs to the instances. In a fresh context of the
GPU it is loaded anew, by whichever instance comes first.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from headrace_engines.errors import EngineSpoilt, MemoryExhausted
from headrace_engines.plans import nvidia
from headrace_engines.plans.nvidia import Library
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.cuda.driver import Driver
from headrace_engines.runtime.lifetimes import keep_for_ever, let_go
from headrace_engines.runtime.tensorrt import plan_file
from headrace_engines.runtime.tensorrt.logger import collected, is_of_memory, logger_of
from headrace_engines.runtime.tensorrt.plan_file import Expected, PlanFile
from headrace_engines.runtime.tensorrt.runtime_cache import RuntimeCache, file_in
from headrace_engines.runtime.tensorrt.tensors import PlanTensors, read_tensors


class LoadedPlan:
    """A plan in one context. What it refers to has to outlive it, and is let go in this order."""

    __slots__ = ("_runtime", "cache", "config", "engine", "tensorrt", "tensors")

    def __init__(self, tensorrt: Any, runtime: Any, engine: Any) -> None:
        """`engine` is an ICudaEngine. Raises UnsupportedModelError naming a tensor that cannot be served."""
        self.tensors: PlanTensors = read_tensors(tensorrt, engine)
        self.tensorrt = tensorrt
        self.engine = engine
        self.config: Any = None
        """How TensorRT for RTX makes execution contexts; TensorRT needs none."""
        self.cache: RuntimeCache | None = None
        self._runtime = runtime

    def configure(self, cache: Path | None) -> None:
        """Say how TensorRT for RTX is to make execution contexts, with what it compiled before."""
        tensorrt = self.tensorrt
        self.config = self.engine.create_runtime_config()
        self.config.set_execution_context_allocation_strategy(
            tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # Compiled in the background, they would come after the graphs that are to hold them.
        strategies = tensorrt.DynamicShapesKernelSpecializationStrategy
        self.config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if cache:
            self.cache = RuntimeCache(self.config, cache)

    def context(self, driver: Driver) -> Any:
        """Return a new IExecutionContext, which uses the memory of the GPU that it is given.

        Raises MemoryExhausted in the library's words.
        """
        managed = self.tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        with collected() as said:
            context = self.engine.create_execution_context(self.config or managed)
        if context is None:
            raise MemoryExhausted(
                f"the library makes no execution context, with {driver.free_bytes()} bytes free on the GPU: "
                f"{said[-1] if said else 'it did not say why'}"
            )
        return context

    def close(self) -> None:
        """Let go of the library's objects, those first that refer to others; inside `Gpu.use`."""
        self.config = None
        self.engine = None
        self.cache = None
        self._runtime = None

    def abandon(self) -> None:
        """Keep the library's objects for ever: they are of a context that is gone."""
        keep_for_ever(self.config, self.engine, self.cache, self._runtime)


class Plan:
    """A plan's file, and what the library has made of it, shared by all who have it open."""

    def __init__(
        self,
        path: Path,
        library: Library,
        gpu: Gpu,
        *,
        expected: Expected | None = None,
        caches: Path | None = None,
    ) -> None:
        """`caches` is the folder for what TensorRT for RTX compiles; None keeps nothing."""
        self.path = path
        self._library = library
        self.gpu = gpu
        self._sha256 = expected.sha256 if expected else ""
        self._size_bytes = expected.size_bytes if expected else 0
        self._caches = caches
        self._lock = threading.Lock()
        self._loaded: LoadedPlan | None = None
        self._generation = 0
        self._users = 0

    def open(self, generation: int) -> LoadedPlan:
        """Return the plan as it is loaded in this generation of the context; each is to be closed once.

        Raises ModelFileError for a file that is missing or damaged, PlanMismatch for one that was built for
        something else, UnsupportedModelError, MemoryExhausted, EngineSpoilt or DeviceError.
        """
        with self._lock:
            if generation < self._generation:
                raise EngineSpoilt("the plan is loaded in a newer context", was_executed=False)
            if generation > self._generation:
                self._forget()
            if self._loaded is None:
                facts = self.gpu.facts
                file = plan_file.read(
                    self.path, self._library, facts, sha256=self._sha256, size_bytes=self._size_bytes
                )
                self._loaded = self._load(file, generation)
                self._generation = generation
                self._sha256 = file.sha256
            self._users += 1
            return self._loaded

    def close(self, generation: int) -> None:
        """Count one user out; with the last of a generation the library's objects go.

        Raises EngineSpoilt or DeviceError if they have gone with their context.
        """
        with self._lock:
            if generation != self._generation:
                return
            self._users -= 1
            if self._users or self._loaded is None:
                return
            try:
                with self.gpu.use(generation):
                    self._loaded.close()
                    self._loaded = None
            except BaseException:
                self._forget()
                raise

    def _forget(self) -> None:
        if self._loaded:
            self._loaded.abandon()
        self._loaded = None
        self._users = 0

    def _load(self, file: PlanFile, generation: int) -> LoadedPlan:
        with self.gpu.load(generation) as driver:
            try:
                return self._taken(file, driver)
            except BaseException as error:
                # What the library has made ends here, and not outside the context with the error's frames.
                let_go(error)
                raise

    def _taken(self, file: PlanFile, driver: Driver) -> LoadedPlan:
        tensorrt = self._library.module()
        free_bytes = driver.free_bytes()
        with collected() as said:
            runtime = tensorrt.Runtime(logger_of(tensorrt))
            engine = runtime.deserialize_cuda_engine(file.content)
        if engine is None:
            driver.free_bytes()  # which fails if it is the context that has failed
            if is_of_memory(said):
                raise MemoryExhausted(
                    f"{self.path.name}: its {len(file.content)} bytes do not fit on the GPU, of which "
                    f"{free_bytes} bytes were free: {said[-1]}"
                )
            raise plan_file.refusal(self.path, said)
        loaded = LoadedPlan(tensorrt, runtime, engine)
        if self._library.name == nvidia.RTX:
            folder, facts = self._caches, self.gpu.facts
            loaded.configure(folder and file_in(folder, file.sha256, self._library, facts))
        return loaded
