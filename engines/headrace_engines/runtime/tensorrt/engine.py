"""A TensorRT plan as an engine on one GPU; for TensorRT and TensorRT for RTX alike."""

from __future__ import annotations

import contextlib
from pathlib import Path

from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.described import check_described
from headrace_engines.errors import DeviceError, EngineSpoilt
from headrace_engines.plans.nvidia import Library
from headrace_engines.renewal import in_usable_context
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.staged import Computing, StagedEngine
from headrace_engines.runtime.staging import Staging
from headrace_engines.runtime.tensorrt.contexts import Contexts
from headrace_engines.runtime.tensorrt.execution import shapes_of_outputs
from headrace_engines.runtime.tensorrt.plan import Plan
from headrace_engines.runtime.tensorrt.plan_file import Expected
from headrace_engines.runtime.tensorrt.signature import agreed_spec, plan_spec
from headrace_engines.runtime.tensorrt.unstaged import Unstaged
from headrace_engines.spec import ModelSpec


class TensorRtEngine(StagedEngine):
    """Executes a plan. Instances of it share the library's engine, and the weights in it."""

    platform = "tensorrt_plan"

    def __init__(
        self,
        path: Path,
        *,
        library: Library,
        gpu: Gpu,
        max_batch_size: int = 64,
        declaration: Declaration = NOTHING_DECLARED,
        expected: Expected | None = None,
        caches: Path | None = None,
    ) -> None:
        """Load the plan, choose its batch sizes, and execute each of them.

        The engine takes over the GPU, and closes it also if this fails. `caches` is the folder in which is
        kept what TensorRT for RTX compiles at its first executions. Takes seconds. Raises ModelFileError
        for a file that is missing, damaged or not as it was declared or described, PlanMismatch for one
        that was built by another library or for another GPU, UnsupportedModelError for tensors that cannot
        be served, MemoryExhausted with the numbers, EngineSpoilt or DeviceError.
        """
        self._plan = Plan(path, library, gpu, expected=expected, caches=caches)
        self._captures = declaration.cuda_graphs
        try:
            generation, self.found, spec = in_usable_context(
                gpu, lambda generation: self._specs(generation, max_batch_size, declaration, expected)
            )
            try:
                super().__init__(gpu, spec)
                self._begin()
            finally:
                with contextlib.suppress(EngineSpoilt, DeviceError):
                    self._plan.close(generation)
        except BaseException:
            gpu.close()
            raise

    def _specs(
        self, generation: int, max_batch_size: int, declaration: Declaration, expected: Expected | None
    ) -> tuple[int, ModelSpec, ModelSpec]:
        """Load the plan, and return what the file has, and what is executed of it."""
        loaded = self._plan.open(generation)
        try:
            with shapes_of_outputs(loaded, self._plan.gpu, generation) as shapes_of:
                found = plan_spec(loaded.tensors, shapes_of, max_batch_size)
                if expected:
                    check_described(found, expected.inputs, expected.outputs, self._plan.path.name)
                spec = agreed_spec(loaded.tensors, shapes_of, found, declaration)
        except BaseException:
            with contextlib.suppress(EngineSpoilt, DeviceError):
                self._plan.close(generation)
            raise
        return generation, found, spec

    def _made(self, holdings: Holdings, staging: Staging | None) -> Computing:
        if staging is None:
            return Unstaged(self._plan, self.spec, holdings)
        return Contexts(
            self._plan,
            self.spec,
            holdings,
            staging,
            sizes=self._sizes,
            captures=self._captures,
        )
