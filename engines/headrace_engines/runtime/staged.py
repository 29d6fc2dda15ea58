"""What engines on a GPU share: two batches in flight, fixed batch sizes, a fresh start in another context.

An engine says what it computes (`Computing`); everything around it stands here. A batch runs at the next
size that the engine was made ready for: what pads it is computed and not answered.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Protocol, Self

from numpy.typing import NDArray

from headrace_engines.device_rows import Placed
from headrace_engines.engine import DeviceSide, DeviceTimes
from headrace_engines.errors import DeviceError, EngineError, EngineSpoilt, ExecutionError
from headrace_engines.renewal import in_usable_context
from headrace_engines.runtime.arrays import check_arrays
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.cuda.driver import Driver
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.lifetimes import let_go
from headrace_engines.runtime.staging import Staging
from headrace_engines.spec import ModelSpec

_log = logging.getLogger(__name__)

SLOTS: Final = 2
"""One batch computes while another is copied."""

Arrays = tuple[NDArray[Any], ...]


class Computing(Protocol):
    """What one engine has of its library in one context of the GPU. No call is made inside `Gpu.use`."""

    def open(self, generation: int) -> tuple[int, ...]:
        """Make everything ready in this generation of the context, and return the batch sizes, ascending.

        Each has been executed once; without staging there are none. Raises EngineError, and is closed then.
        """

    def enqueue(self, driver: Driver, slot: int, size: int) -> None:
        """Put a batch of this size, in the slot's buffers, into the staging's computing stream.

        The one call that is made inside `Gpu.use`. Raises ExecutionError in the library's words.
        """

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> Arrays:
        """Execute arrays of a model that is not staged; they have the spec's dtypes and dims."""

    def close(self) -> None:
        """Give back what the library holds. Raises EngineSpoilt or DeviceError if that has gone."""

    def abandon(self) -> None:
        """Forget what the library holds in a context that is gone, and have it free nothing there."""


class StagedEngine(ABC):
    """An engine on a GPU; it is its own device side."""

    computes_on_caller = False

    def __init__(self, gpu: Gpu, spec: ModelSpec) -> None:
        """Take over the GPU, to be closed with the engine; `_begin` makes that ready to compute.

        `spec` has the tensors and the largest batch, and gets the batch sizes.
        """
        self.spec = spec
        self.slots = SLOTS if spec.is_staged else 1
        self._gpu = gpu
        self._generation = 0
        self._sizes: tuple[int, ...] = ()
        """The batch sizes that were chosen by measurement; a context made later may have room for fewer."""
        self._holdings: Holdings | None = None
        self._staging: Staging | None = None
        self._computing: Computing | None = None

    @abstractmethod
    def _made(self, holdings: Holdings, staging: Staging | None) -> Computing:
        """Return what computes in the context of the holdings, not open yet; None stages nothing."""

    @property
    def device(self) -> DeviceSide:
        """What it has besides, being on a GPU."""
        return self

    @property
    def gpu(self) -> int:
        """The index of its GPU."""
        return self._gpu.facts.index

    @property
    def memory_bytes(self) -> int:
        """How much of the GPU's memory the instance holds besides the weights."""
        return self._holdings.device_bytes if self._holdings else 0

    def inputs(self, slot: int) -> Arrays:
        """Return the slot's pinned buffers."""
        return self._slots_of(self._staging).inputs(slot)

    def submit(self, slot: int, rows: int, placed: Sequence[Placed] = ()) -> None:
        """Have the first rows of the slot copied in, computed and copied out; returns at once.

        Those that are `placed` are copied from where they stand on the GPU.
        """
        size = self._size_for(rows)
        staging = self._slots_of(self._staging)
        is_alone = staging.is_idle
        is_begun = False
        try:
            with self._gpu.use(self._generation) as driver:
                is_begun = True
                computing = self._live()
                staging.launch(driver, slot, rows, lambda: computing.enqueue(driver, slot, size), placed)
        except EngineSpoilt as error:
            let_go(error)
            raise EngineSpoilt(str(error), was_executed=is_begun and is_alone) from error
        except EngineError as error:
            let_go(error)
            raise

    def wait(self, slot: int) -> Arrays:
        """Wait until the slot's rows are there."""
        staging = self._slots_of(self._staging)
        was_first = staging.is_first(slot)
        try:
            with self._gpu.use(self._generation) as driver:
                return staging.collect(driver, slot)
        except EngineSpoilt as error:
            raise EngineSpoilt(str(error), was_executed=was_first) from error

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> Arrays:
        """Execute arrays; a staged model's go through a slot that has no batch in flight."""
        check_arrays(self.spec, arrays)
        if not self.spec.is_staged:
            return self._run_unstaged(arrays)
        rows = [array for array in arrays if array is not None]
        count = len(rows[0])
        if not 0 < count <= self.spec.max_batch_size:
            raise ExecutionError(f"{count} rows came, expected 1 to {self.spec.max_batch_size}")
        slot = self._slots_of(self._staging).free_slot()
        if slot is None:
            raise ExecutionError("all slots have batches in flight")
        for buffer, array in zip(self.inputs(slot), rows, strict=True):
            buffer[:count] = array
        self.submit(slot, count)
        return tuple(output.copy() for output in self.wait(slot))

    def times(self, slot: int) -> DeviceTimes | None:
        """Return what the batch took that was last waited for in the slot; None if it was not measured."""
        return self._staging.times(slot) if self._staging else None

    def renew(self) -> None:
        """Begin anew in a fresh context.

        Raises EngineSpoilt if that is spoilt meanwhile, DeviceError if the GPU is lost.
        """
        generation = self._gpu.renew(self._generation)
        self._abandon()
        self._start(generation)

    def replicate(self) -> Self:
        """Return another instance, which shares the weights and has the rest to itself."""
        if not self._gpu.share():
            raise DeviceError(f"GPU {self.gpu} was given up")
        twin = copy.copy(self)
        twin._holdings = twin._staging = twin._computing = None
        try:
            twin._begin()
        except BaseException:
            self._gpu.close()
            raise
        return twin

    def close(self) -> None:
        """Give everything back, and the GPU with it."""
        try:
            self._finish()
        finally:
            self._gpu.close()

    def _begin(self) -> None:
        """Make the engine ready to compute. Raises EngineError."""
        in_usable_context(self._gpu, self._start)

    def _start(self, generation: int) -> None:
        self._generation = generation
        self._holdings = Holdings(self._gpu)
        try:
            if self.spec.is_staged:
                with self._gpu.use(generation) as driver:
                    self._staging = Staging(self._holdings, driver, self.spec, self.slots)
            self._computing = self._made(self._holdings, self._staging)
            sizes = self._computing.open(generation)
        except BaseException as error:
            let_go(error)
            self._finish()
            raise
        if sizes:
            self._sizes = self._sizes or sizes
            self.spec = dataclasses.replace(self.spec, batch_sizes=sizes)

    def _finish(self) -> None:
        """Give back what there is, whatever of it fails."""
        for step in (self._drain, self._close_library, self._give_back):
            try:
                step()
            except (EngineSpoilt, DeviceError):
                break
            except EngineError as error:
                _log.warning("something that the engine held could not be given back: %s", error)
        self._abandon()

    def _drain(self) -> None:
        if self._staging:
            with self._gpu.use(self._generation) as driver:
                self._staging.drain(driver)

    def _close_library(self) -> None:
        if self._computing:
            self._computing.close()
            self._computing = None

    def _give_back(self) -> None:
        if self._holdings:
            with self._gpu.use(self._generation) as driver:
                self._holdings.close(driver)

    def _abandon(self) -> None:
        if self._computing:
            self._computing.abandon()
        self._holdings = self._staging = self._computing = None

    def _run_unstaged(self, arrays: Sequence[NDArray[Any] | None]) -> Arrays:
        try:
            return self._live().run(arrays)
        except EngineError as error:
            let_go(error)
            raise

    def _live(self) -> Computing:
        if self._computing is None:
            raise EngineSpoilt("the engine was not made anew", was_executed=False)
        return self._computing

    def _slots_of(self, staging: Staging | None) -> Staging:
        if not self.spec.is_staged:
            raise ValueError("this model has no staging buffers: its rows differ in size, or it has none")
        if staging is None:
            raise EngineSpoilt("the engine was not made anew", was_executed=False)
        return staging

    def _size_for(self, rows: int) -> int:
        """Return the next size that the engine was made ready for."""
        if not 0 < rows <= self.spec.max_batch_size:
            raise ValueError(f"{rows} rows were submitted, expected 1 to {self.spec.max_batch_size}")
        sizes = self.spec.batch_sizes
        return sizes[bisect.bisect_left(sizes, rows)]
