"""Execution contexts: how one instance of a staged plan computes.

Each batch size of each slot has a context, whose shapes and addresses are set once, and a CUDA graph of its
execution: a graph holds what its context had when it was captured, and the first execution at a shape is
slow. One stream runs all contexts of an instance, so that they share the memory for activations.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import ExecutionError
from headrace_engines.runtime.cuda.driver import CudaError, Driver, Fault
from headrace_engines.runtime.cuda.memory import is_shortage
from headrace_engines.runtime.gpu_sizes import chosen_sizes, fitting_sizes
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.lifetimes import keep_for_ever, let_go
from headrace_engines.runtime.staged import Arrays
from headrace_engines.runtime.staging import Staging
from headrace_engines.runtime.tensorrt.execution import enqueue, set_addresses, set_shapes
from headrace_engines.runtime.tensorrt.graphs import captured, check_alike
from headrace_engines.runtime.tensorrt.plan import LoadedPlan, Plan
from headrace_engines.runtime.tensorrt.room import SHARE, Room
from headrace_engines.runtime.tensorrt.signature import input_shapes, row_range
from headrace_engines.samples import Floats, Recipe
from headrace_engines.spec import ModelSpec

_log = logging.getLogger(__name__)

_MEASUREMENTS: Final = 3
"""Of each size; the quickest counts."""
_PROBE: Final = Recipe(Floats.NORMAL, integer_bound=2, any_size=1)
"""Rows to try with: integers may be indices, and one out of range would spoil the GPU's context."""


class Contexts:
    """All contexts of one instance, in one context of the GPU."""

    def __init__(
        self,
        plan: Plan,
        spec: ModelSpec,
        holdings: Holdings,
        staging: Staging,
        *,
        sizes: tuple[int, ...],
        captures: bool,
    ) -> None:
        """`sizes` are the batch sizes as they were chosen by measurement; () has them chosen.

        `captures` says whether CUDA graphs may be used.
        """
        self._plan = plan
        self._spec = spec
        self._holdings = holdings
        self._staging = staging
        self._sizes = sizes
        self._generation = 0
        self._loaded: LoadedPlan | None = None
        self._contexts: dict[tuple[int, int], Any] = {}
        self._graphs: dict[tuple[int, int], Any] = {}
        self._captures = captures
        self._activations = (0, 0)
        self._unanswered: dict[str, int] = {}
        self._taken_bytes = 0
        """Of the GPU's memory, by contexts and graphs."""

    def open(self, generation: int) -> tuple[int, ...]:
        """Make every size ready in every slot: executed, and captured where that can be done."""
        self._generation = generation
        loaded = self._loaded = self._plan.open(generation)
        with self._plan.gpu.load(generation) as driver:
            try:
                self._reserve(loaded, driver)
            except BaseException as error:
                let_go(error)  # a context must end here, where the GPU's is
                raise
        first, *others = range(self._staging.slots)
        self._fill(first)
        sizes = self._first_sizes(loaded, first)
        self._keep_compiled(loaded)  # what else goes wrong, the next start finds it
        for slot in others:
            self._fill(slot)
            sizes = self._sizes_in(loaded, slot, sizes)
        self._keep_compiled(loaded)
        _log.info(
            "%s: batches of %s rows: execution contexts and graphs take %d bytes of GPU %d, besides %d for "
            "activations",
            self._plan.path.name,
            ", ".join(map(str, sizes)),
            self._taken_bytes,
            self._plan.gpu.facts.index,
            self._activations[1],
        )
        return sizes

    def enqueue(self, driver: Driver, slot: int, size: int) -> None:
        """Launch the graph of the slot and size, or execute the context where there is none."""
        graph = self._graphs.get((slot, size))
        if graph is None:
            enqueue(self._contexts[slot, size], self._staging.computing.handle)
        else:
            driver.launch(graph, self._staging.computing)

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> Arrays:
        """Not for what is staged."""
        raise ValueError("a staged model is executed through its slots")

    def close(self) -> None:
        """Let go of the contexts, and of the plan."""
        if self._loaded is None:
            return
        with self._plan.gpu.use(self._generation):
            self._contexts.clear()
        self._loaded = None
        self._plan.close(self._generation)

    def abandon(self) -> None:
        """Have the contexts outlive everything."""
        keep_for_ever(*self._contexts.values())
        self._contexts.clear()
        self._loaded = None

    def _reserve(self, loaded: LoadedPlan, driver: Driver) -> None:
        """Take memory for activations, and for the outputs that nobody is answered."""
        size_bytes = int(loaded.engine.device_memory_size_v2)
        if size_bytes:
            self._activations = (self._holdings.memory(size_bytes), size_bytes)
        answered = {tensor.name for tensor in self._spec.outputs}
        unanswered = [tensor for tensor in loaded.tensors.outputs if tensor.name not in answered]
        if unanswered:
            inputs = input_shapes(self._spec, self._spec.max_batch_size)
            stream = self._staging.computing.handle
            shapes = set_shapes(loaded.tensors, loaded.context(driver), inputs, stream)
            for tensor in unanswered:
                needed = math.prod(shapes[tensor.name]) * tensor.dtype.itemsize
                self._unanswered[tensor.name] = self._holdings.memory(needed)

    def _fill(self, slot: int) -> None:
        rows = _PROBE.rows(self._spec.inputs, self._spec.max_batch_size, np.random.default_rng(0))
        for buffer, drawn in zip(self._staging.inputs(slot), rows, strict=True):
            buffer[:] = drawn

    def _first_sizes(self, loaded: LoadedPlan, slot: int) -> tuple[int, ...]:
        """Make as many sizes ready in the first slot as are worth it, and as all slots have room for."""
        with self._plan.gpu.use(self._generation):
            room = Room(self._plan.gpu.memory.room_bytes(SHARE), self._staging.slots)
        if self._sizes:
            prepare = functools.partial(self._prepare, loaded, slot, room=room)
            return tuple(sorted(fitting_sizes(self._sizes, prepare, room.has_next)))
        least, _ = row_range(loaded.tensors) or (1, 1)
        most = self._spec.max_batch_size
        return chosen_sizes(least, most, lambda size: self._timed(loaded, slot, size, room), room.has_next)

    def _sizes_in(self, loaded: LoadedPlan, slot: int, sizes: Sequence[int]) -> tuple[int, ...]:
        """Make these sizes ready in a further slot; return those that all slots have by now."""
        made = fitting_sizes(sizes, lambda size: self._prepare(loaded, slot, size))
        for size in set(sizes) - set(made):
            with self._plan.gpu.use(self._generation) as driver:
                for other in range(slot):
                    self._drop(driver, other, size)
        return tuple(sorted(made))

    def _timed(self, loaded: LoadedPlan, slot: int, size: int, room: Room) -> float:
        """Make a size ready, and return how many milliseconds it takes the GPU to compute it."""
        self._prepare(loaded, slot, size, room)
        took = []
        for _ in range(_MEASUREMENTS):
            with self._plan.gpu.use(self._generation) as driver:
                self._answers(driver, slot, size)
            times = self._staging.times(slot)
            took.append(times.compute_ns / 1e6 if times else 0.0)
        return min(took)

    def _prepare(self, loaded: LoadedPlan, slot: int, size: int, room: Room | None = None) -> None:
        before = self._holdings.device_bytes
        with (
            self._plan.gpu.load(self._generation) as driver,
            self._holdings.counting(driver, lambda: self._drop(driver, slot, size)),
        ):
            self._contexts[slot, size] = loaded.context(driver)
            self._bind(loaded, slot, size)
            expected = self._answers(driver, slot, size)
            if self._captures:
                self._capture(driver, slot, size, expected)
        taken = self._holdings.device_bytes - before
        self._taken_bytes += taken
        if room is not None:
            room.take(taken)

    def _drop(self, driver: Driver, slot: int, size: int) -> None:
        """Let a context go, and the graph of it."""
        self._drop_graph(driver, slot, size)
        self._contexts.pop((slot, size), None)

    def _drop_graph(self, driver: Driver, slot: int, size: int) -> None:
        graph = self._graphs.pop((slot, size), None)
        if graph is not None:
            self._holdings.destroy_graph(driver, graph)

    def _bind(self, loaded: LoadedPlan, slot: int, size: int) -> None:
        context = self._contexts[slot, size]
        address, size_bytes = self._activations
        if size_bytes:
            context.set_device_memory(address, size_bytes)
        stream = self._staging.computing.handle
        set_shapes(loaded.tensors, context, input_shapes(self._spec, size), stream)
        inputs, outputs = self._staging.buffers(slot)
        addresses = dict(self._unanswered)
        for tensors, buffers in ((self._spec.inputs, inputs), (self._spec.outputs, outputs)):
            addresses |= {t.name: buffer.address for t, buffer in zip(tensors, buffers, strict=True)}
        set_addresses(context, addresses)

    def _capture(self, driver: Driver, slot: int, size: int, expected: Arrays) -> None:
        stream = self._staging.computing
        try:
            context = self._contexts[slot, size]
            execute = functools.partial(enqueue, context, stream.handle)
            graph = captured(driver, self._holdings, context, stream, execute)
            self._graphs[slot, size] = graph
            for buffer in self._staging.buffers(slot)[1]:  # so that no answer from before passes
                driver.zero(buffer.address, len(buffer.host), stream)
            check_alike(self._answers(driver, slot, size), expected)
        except (ExecutionError, CudaError) as error:
            is_needed = size == self._spec.max_batch_size
            if not is_needed if is_shortage(error) else _is_of_context(error):
                raise
            let_go(error)
            self._give_up_graphs(driver, slot, size, str(error), is_shortage(error))
            self._answers(driver, slot, size)

    def _give_up_graphs(self, driver: Driver, slot: int, size: int, why: str, is_for_memory: bool) -> None:
        """Go without the graph of a size that has to be there, or without any if none can be had."""
        name = self._plan.path.name
        if is_for_memory:
            _log.warning("%s: batches of %d rows run without a CUDA graph: %s", name, size, why)
            self._drop_graph(driver, slot, size)
            return
        _log.warning("%s runs without CUDA graphs: %s", name, why)
        self._captures = False
        self._graphs.clear()

    def _answers(self, driver: Driver, slot: int, size: int) -> Arrays:
        """Execute the rows that are in the slot, and return copies of the answers."""
        self._staging.launch(driver, slot, size, functools.partial(self.enqueue, driver, slot, size))
        return tuple(output.copy() for output in self._staging.collect(driver, slot))

    def _keep_compiled(self, loaded: LoadedPlan) -> None:
        if loaded.cache:
            with self._plan.gpu.load(self._generation):
                loaded.cache.save()


def _is_of_context(error: Exception) -> bool:
    return isinstance(error, CudaError) and error.fault is not Fault.CALL
