"""What this machine has to run models on besides its CPU, and the engines that run on it.

Nothing is looked for before it is asked about: a machine without a GPU pays for one look, and imports
nothing of NVIDIA's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace_engines.declaration import Declaration
from headrace_engines.engine import Engine
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.store import CACHES

if TYPE_CHECKING:
    from headrace_engines.plans.nvidia import Library
    from headrace_engines.replan import Replanner
    from headrace_engines.runtime.cuda.context import Gpu
    from headrace_engines.runtime.cuda.driver import GpuFacts
    from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine
    from headrace_engines.runtime.tensorrt.plan_file import Expected

_OWN_CACHE: Final = "headrace"
"""The folder, among others' caches, that builds are kept in, too."""


class Machine:
    """The GPUs, the libraries and the engines of this machine. Any thread may ask."""

    def __init__(self, caches: Path | None = None) -> None:
        """What is built or measured for the GPUs is kept in the folder `caches`; None keeps nothing."""
        self._store = caches / _OWN_CACHE if caches else None
        self._told: set[str] = set()
        self._telling = threading.Lock()

    def gpus(self) -> Mapping[int, GpuFacts]:
        """Return the GPUs that can be used, by index."""
        from headrace_engines.runtime.cuda import gpu

        return {facts.index: facts for facts in gpu.available()}

    def why_no_gpu(self) -> str:
        """Say why there is none."""
        from headrace_engines.runtime.cuda import gpu

        return gpu.why_none()

    def is_news(self, text: str) -> bool:
        """Whether this is told for the first time: what is true of a machine is told once for all models."""
        with self._telling:
            is_news = text not in self._told
            self._told.add(text)
            return is_news

    def has_provider(self) -> bool:
        """Whether the ONNX Runtime that is here could execute ONNX files on a GPU."""
        try:
            from headrace_engines.runtime import onnx_provider
        except ImportError:
            return False
        return onnx_provider.available()

    def library(self, plan: str) -> Library | None:
        """Return the library to load a plan of this name with: the one that built it, if it is here."""
        from headrace_engines.plans import nvidia

        there = nvidia.all_installed()
        built_by = [library for library in there if f"-{library.family}" in plan]
        return next(iter((*built_by, *there)), None)

    def plan_engine(
        self,
        path: Path,
        gpu: int,
        *,
        max_batch_size: int,
        declaration: Declaration,
        expected: Expected | None,
    ) -> Engine:
        """Return the plan as an engine on the GPU of this index; raises what `Opener.open` does."""
        from headrace_engines.plans import nvidia
        from headrace_engines.runtime.tensorrt.engine import TensorRtEngine

        library = self.library(path.name)
        if library is None:
            raise UnsupportedModelError(
                f"{path.name}: needs tensorrt or tensorrt_rtx, and neither is installed: in a clone, "
                "pip install '.[tensorrt]' or pip install '.[rtx]'"
            )
        if facts := self.gpus().get(gpu):
            nvidia.check_driver(library, facts.driver)
        return TensorRtEngine(
            path,
            library=library,
            gpu=self.open_gpu(gpu),
            max_batch_size=max_batch_size,
            declaration=declaration,
            expected=expected,
            caches=self._store and self._store / CACHES,
        )

    def provider_engine(
        self, path: Path, gpu: int, *, max_batch_size: int, declaration: Declaration
    ) -> OnnxRuntimeCudaEngine:
        """Return the ONNX file as an engine of ONNX Runtime on the GPU of this index."""
        try:
            from headrace_engines.runtime import onnxruntime_cuda
        except ImportError as error:
            raise UnsupportedModelError(
                f"needs onnxruntime-gpu, which cannot be imported ({error}): in a clone, pip install "
                "'.[cuda]'"
            ) from error
        if not onnxruntime_cuda.available():
            raise UnsupportedModelError(
                "needs ONNX Runtime with its CUDA provider, and the one that is installed lacks that: in a "
                "clone, pip uninstall onnxruntime, and pip install '.[cuda]'"
            )
        return onnxruntime_cuda.OnnxRuntimeCudaEngine(
            path, gpu=self.open_gpu(gpu), max_batch_size=max_batch_size, declaration=declaration
        )

    def open_gpu(self, index: int) -> Gpu:
        """Return the GPU, shared once more: whoever asks for it closes it."""
        from headrace_engines.runtime.cuda import gpu

        return gpu.open_gpu(index)

    def replanner(self) -> Replanner | None:
        """Return what builds plans for the GPUs; None without a GPU, or a folder to keep them in."""
        if self._store is None or not self.gpus():
            return None
        from headrace_engines.replan import Replanner

        return Replanner.of(self._store)

    @staticmethod
    def bound_memory(pinned_bytes: int, device_bytes: Mapping[int, int]) -> None:
        """Bound what batches may take of pinned and of each GPU's memory, before any is taken; 0 is none."""
        if pinned_bytes or device_bytes:
            from headrace_engines.runtime.cuda import pools

            pools.configure(pinned_bytes, device_bytes)


THIS_MACHINE: Final = Machine()
