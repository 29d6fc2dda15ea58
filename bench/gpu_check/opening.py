"""Opens GPUs and plans as the server does, and in the ways that it does not, for comparison."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.gpu_check.cases import Case, described
from bench.gpu_check.setting import Setting
from headrace_engines.candidates import Candidate, Runner
from headrace_engines.declaration import NOTHING_DECLARED
from headrace_engines.engine import Engine
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.machine import Machine
from headrace_engines.opening import Opener
from headrace_engines.runtime.cuda import pools
from headrace_engines.runtime.cuda.driver import CudaError, Driver, Fault, Stream
from headrace_engines.runtime.cuda.gpu import Gpu, open_gpu

LIBRARIES: Final = {"pycuda": "pycuda_driver", "cuda-python": "cuda_python_driver"}
"""The modules through which the driver can be reached, by the names of what is installed for them."""


class Observed:
    """A driver that counts the graphs it launches, and captures none where they are left out.

    Somebody else retains it.
    """

    def __init__(self, driver: Driver, *, captures: bool) -> None:
        self._driver = driver
        self._captures = captures
        self.launched = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def begin_capture(self, stream: Stream) -> None:
        """Refuse where graphs are left out, as a driver does that is too old."""
        if not self._captures:
            raise CudaError("begin_capture", "CUDA_ERROR_NOT_SUPPORTED", Fault.CALL, "graphs are left out")
        self._driver.begin_capture(stream)

    def launch(self, graph: Any, stream: Stream) -> None:
        """Count it."""
        self.launched += 1
        self._driver.launch(graph, stream)

    def release(self) -> None:
        """Leave the context to whom it belongs."""


@contextlib.contextmanager
def shared(setting: Setting) -> Iterator[Gpu]:
    """Open the GPU as engines do."""
    with contextlib.closing(open_gpu(setting.gpu)) as gpu:
        yield gpu


@contextlib.contextmanager
def observed(setting: Setting, *, captures: bool = True) -> Iterator[tuple[Gpu, Observed]]:
    """Open the GPU through a driver that tells how often a graph was launched."""
    with shared(setting) as gpu:
        with gpu.use(gpu.generation) as driver:
            watched = Observed(driver, captures=captures)
        same: Any = watched
        with contextlib.closing(Gpu(same, pools.current())) as observed_gpu:
            yield observed_gpu, watched


@contextlib.contextmanager
def through(library: str, setting: Setting) -> Iterator[Gpu]:
    """Open the GPU through the library of that name. Raises ImportError or CudaError."""
    module: Any = importlib.import_module(f"headrace_engines.runtime.cuda.{LIBRARIES[library]}")
    facts = {one.index: one for one in module.gpus()}[setting.gpu]
    driver: Driver = module.driver(facts)
    driver.retain()
    with contextlib.closing(Gpu(driver, pools.current())) as gpu:
        yield gpu


class _OneGpu(Machine):
    """A machine with the GPU that is already open."""

    def __init__(self, gpu: Gpu, caches: Path) -> None:
        super().__init__(caches)
        self._gpu = gpu

    def open_gpu(self, index: int) -> Gpu:
        """Share it once more."""
        self._gpu.share()
        return self._gpu


def plan(case: Case, gpu: Gpu, most_rows: int, setting: Setting) -> Engine:
    """Return the case's plan as an engine. Raises what `Opener.open` does."""
    if case.plan is None:
        raise UnsupportedModelError(f"{case.name}: there is no plan")
    candidate = Candidate(case.folder / case.plan.file, case.plan, "to be tried", Runner.TENSORRT)
    opener = Opener(described(case.folder), NOTHING_DECLARED, _OneGpu(gpu, setting.caches))
    return opener.open(candidate, gpu.facts.index, most_rows)


def provider(case: Case, gpu: Gpu, most_rows: int, setting: Setting) -> Engine:
    """Return the case's ONNX file in ONNX Runtime on the GPU. Raises UnsupportedModelError without it."""
    return _OneGpu(gpu, setting.caches).provider_engine(
        case.folder / case.onnx.file,
        gpu.facts.index,
        max_batch_size=most_rows,
        declaration=NOTHING_DECLARED,
    )
