"""From an ONNX file to a TensorRT plan.

Nothing that is gone in newer releases is used: networks are strongly typed, so that precision is what
the graph says, put there by a recipe and judged before a plan is built from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.plans import nvidia
from headrace_engines.plans.faults import ParserComplaint, build_failure, parse_failure
from headrace_engines.plans.nvidia import Library
from headrace_engines.plans.settings import PlanSettings, batch_ranges
from headrace_engines.progress import Progress
from headrace_engines.runtime.tensorrt.logger import collected, logger_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What was built: nothing of it can be read out of a plan again without a GPU.

    `architecture` is "any" or a compute capability, such as "sm90". `profiles` are the least, the best
    and the largest batch of each.
    """

    library: Library
    architecture: str
    profiles: tuple[tuple[int, int, int], ...]
    size_bytes: int
    seconds: float


def file_name(stem: str, library: Library, architecture: str) -> str:
    """Return the name of a plan's file: what may load it stands in it."""
    return f"{stem}.{architecture}-{library.short_name}.plan"


def build_plan(
    model: Path,
    into: Path,
    library: Library,
    settings: PlanSettings,
    *,
    caches: Path,
    progress: Progress,
) -> PlanFacts:
    """Build a plan from an ONNX file, as precise as the file says.

    What TensorRT measured of kernels is kept in the folder `caches` for the next build. Raises
    UnsupportedModelError in one line that names the node and what to try.
    """
    start = time.perf_counter()
    architecture = nvidia.architecture(library)
    build = _Build(library.module(), settings, progress)
    network = build.parsed(model)
    if library.name == nvidia.RTX:  # kernels are chosen where it runs, and nothing is measured here
        ranges = [(1, settings.batch_sizes[-1], settings.batch_sizes[-1])]
        plan = build.plan(network, ranges, None)
    else:
        ranges = batch_ranges(settings.batch_sizes)
        plan = build.plan(network, ranges, caches / f"timing-{architecture}-{library.short_name}.cache")
    into.write_bytes(plan)
    seconds = time.perf_counter() - start
    return PlanFacts(library, architecture, tuple(ranges), len(plan), round(seconds, 3))


class _Build:
    """One build: the library's objects."""

    def __init__(self, tensorrt: Any, settings: PlanSettings, progress: Progress) -> None:
        self._tensorrt = tensorrt
        self._settings = settings
        self._logger = logger_of(tensorrt)
        self._monitor = _monitor(tensorrt, progress)
        self._builder = tensorrt.Builder(self._logger)

    def parsed(self, model: Path) -> Any:
        flags = self._tensorrt.NetworkDefinitionCreationFlag
        network = self._builder.create_network(1 << int(flags.STRONGLY_TYPED))
        parser = self._tensorrt.OnnxParser(network, self._logger)
        with collected():  # the parser keeps its own
            is_parsed = parser.parse_from_file(str(model))
        if not is_parsed:
            errors = [parser.get_error(at) for at in range(parser.num_errors)]
            complaints = [
                ParserComplaint(error.node_name(), error.node_operator(), error.desc()) for error in errors
            ]
            raise UnsupportedModelError(f"{model.name}: {parse_failure(complaints)}")
        self._parser = parser  # it owns the weights that the network refers to
        return network

    def plan(self, network: Any, ranges: Sequence[tuple[int, int, int]], timing_cache: Path | None) -> bytes:
        config = self._config()
        for batches in ranges if _has_open_sizes(network) else ():
            config.add_optimization_profile(self._profile(network, batches))
        if timing_cache:
            config.set_timing_cache(config.create_timing_cache(_read(timing_cache)), ignore_mismatch=False)
        with collected() as said:
            serialized = self._builder.build_serialized_network(network, config)
        if serialized is None:
            raise UnsupportedModelError(build_failure(said))
        if timing_cache:
            _keep(timing_cache, bytes(config.get_timing_cache().serialize()))
        return bytes(serialized)

    def _config(self) -> Any:
        tensorrt, settings = self._tensorrt, self._settings
        config = self._builder.create_builder_config()
        config.builder_optimization_level = settings.optimization_level
        config.progress_monitor = self._monitor
        if settings.workspace_bytes:
            config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
        if not settings.tf32:
            config.clear_flag(tensorrt.BuilderFlag.TF32)
        if settings.sparse_weights:
            config.set_flag(tensorrt.BuilderFlag.SPARSE_WEIGHTS)
        # TensorRT for RTX allocates memory of its own where it may, which cannot stand in a CUDA graph.
        if (flag := getattr(tensorrt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)) is not None:
            config.set_flag(flag)
        return config

    def _profile(self, network: Any, batches: tuple[int, int, int]) -> Any:
        profile = self._builder.create_optimization_profile()
        for at in range(network.num_inputs):
            tensor = network.get_input(at)
            batch, *dims = tensor.shape
            profile.set_shape(
                tensor.name,
                *(
                    (size if batch < 0 else batch, *(open_size if dim < 0 else dim for dim in dims))
                    for size, open_size in zip(batches, self._settings.open_sizes, strict=True)
                ),
            )
        return profile


def _has_open_sizes(network: Any) -> bool:
    return any(-1 in tuple(network.get_input(at).shape) for at in range(network.num_inputs))


def _read(cache: Path) -> bytes:
    try:
        return cache.read_bytes()
    except FileNotFoundError:
        return b""


def _keep(cache: Path, content: bytes) -> None:
    """Write the cache in one step; that it cannot be kept costs the next build time and nothing else."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        written = cache.with_name(f".{cache.name}.new")
        written.write_bytes(content)
        written.replace(cache)
    except OSError as error:
        _log.warning("%s: what TensorRT measured is not kept: %s", cache, error)


def _monitor(tensorrt: Any, progress: Progress) -> Any:
    """Return a monitor of the library's kind that tells how far the phases are that have no parent."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:
                self._steps[phase] = max(1, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._steps:
                progress(f"TensorRT: {phase}", min(1.0, (step + 1) / self._steps[phase]))
            return True

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

    return Monitor()
