"""From a candidate to an engine: proved to be the file that its manifest tells of, and as it was declared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_engines import manifest, memory
from headrace_engines.agreement import check_answers
from headrace_engines.candidates import Candidate, Runner
from headrace_engines.declaration import Declaration
from headrace_engines.described import check_described
from headrace_engines.engine import Engine
from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.machine import Machine
from headrace_engines.manifest import Manifest
from headrace_engines.reshaping import ReshapingEngine, reshapes

if TYPE_CHECKING:
    from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
    from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the candidates of one version."""

    manifest: Manifest | None
    declaration: Declaration
    machine: Machine

    def open(self, candidate: Candidate, gpu: int, max_batch_size: int) -> Engine:
        """Return the engine; `gpu` is the index of the one to run on, and says nothing to the CPU's.

        Raises EngineError: ModelFileError for what is damaged or not as it was declared, PlanMismatch for a
        plan that another library or GPU is needed for, UnsupportedModelError for what cannot be run here.
        """
        engine = self._opened(candidate, gpu, max_batch_size)
        try:
            check_answers(engine, self.declaration)
            memory.check_staging(engine.spec)
        except BaseException:
            engine.close()
            raise
        return ReshapingEngine(engine, self.declaration) if reshapes(self.declaration) else engine

    def _opened(self, candidate: Candidate, gpu: int, max_batch_size: int) -> Engine:
        if candidate.runner is Runner.TENSORRT:
            return self._plan(candidate, gpu, max_batch_size)
        self._verify(candidate)
        engine = self._onnx(candidate, gpu, max_batch_size)
        try:
            if candidate.described and self.manifest:
                check_described(engine.found, self.manifest.inputs, self.manifest.outputs, candidate.file)
        except BaseException:
            engine.close()
            raise
        return engine

    def _onnx(
        self, candidate: Candidate, gpu: int, max_batch_size: int
    ) -> OnnxRuntimeEngine | OnnxRuntimeCudaEngine:
        if candidate.runner is Runner.CPU:
            return _onnx_engine(candidate.path, max_batch_size, self.declaration)
        return self.machine.provider_engine(
            candidate.path, gpu, max_batch_size=max_batch_size, declaration=self.declaration
        )

    def _plan(self, candidate: Candidate, gpu: int, max_batch_size: int) -> Engine:
        expected = None
        if candidate.described and self.manifest:
            from headrace_engines.runtime.tensorrt.plan_file import Expected  # most machines have no plans

            made = candidate.described
            expected = Expected(made.sha256, made.size_bytes, self.manifest.inputs, self.manifest.outputs)
        return self.machine.plan_engine(
            candidate.path,
            gpu,
            max_batch_size=max_batch_size,
            declaration=self.declaration,
            expected=expected,
        )

    def _verify(self, candidate: Candidate) -> None:
        if candidate.described and self.manifest:
            manifest.verify(candidate.path.parent, candidate.described)
            manifest.verify_weights(candidate.path.parent, self.manifest)


def _onnx_engine(path: Path, max_batch_size: int, declaration: Declaration) -> OnnxRuntimeEngine:
    try:
        from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine  # not everybody serves on a CPU
    except ImportError as error:
        raise UnsupportedModelError(
            f"needs onnxruntime, which cannot be imported ({error}): in a clone, pip install '.[cpu]'"
        ) from error
    try:
        return OnnxRuntimeEngine(path, max_batch_size=max_batch_size, declaration=declaration)
    except MemoryError as error:
        raise ModelFileError(
            f"{path.name}: not enough memory for batches of {max_batch_size} rows"
        ) from error
