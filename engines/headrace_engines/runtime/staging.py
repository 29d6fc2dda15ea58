"""The buffers through which batches go to a GPU and back, and the order in which it works on them.

Each slot has memory of its own on both sides, pinned on the host's, for the largest batch. Three streams do
the work of all slots: one copies in, one computes, one copies out. Events make them wait for each other, so
that one batch is copied while another is computed, and nothing is allocated for a batch. Whoever fills a
slot has waited for the batch before it: that keeps the host and the GPU apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import NDArray

from headrace_engines.device_rows import Placed
from headrace_engines.engine import DeviceTimes
from headrace_engines.runtime.cuda.driver import Bytes, CudaError, Driver, Fault, Stream
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.spec import ModelSpec, TensorSpec

_NANOSECONDS: Final = 1e6
"""In a millisecond."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """One tensor's rows of a slot, on both sides."""

    host: Bytes
    rows: NDArray[Any]
    """The same memory, (max_batch_size, *dims)."""
    address: int
    row_bytes: int


@dataclass(frozen=True, slots=True)
class Events:
    """How far a batch has come."""

    in_begun: Any
    in_done: Any
    begun: Any
    computed: Any
    out_done: Any


@dataclass(slots=True)
class Slot:
    """One batch's way."""

    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    events: Events
    rows: int = 0
    """Of the batch that was launched and is not collected."""
    placed: Sequence[Placed] = ()
    """What of it is copied on the GPU, and is held on to until that is done."""
    times: DeviceTimes | None = field(default=None)


class Staging:
    """The slots of one engine in one context. Calls that take the driver are made inside `Gpu.use`."""

    def __init__(self, holdings: Holdings, driver: Driver, spec: ModelSpec, slots: int) -> None:
        """Allocate everything. Raises MemoryExhausted; what was allocated is among the holdings."""
        self._copying_in = holdings.stream(driver)
        self.computing: Final[Stream] = holdings.stream(driver)
        """The stream that computes."""
        self._copying_out = holdings.stream(driver)
        self._slots = [self._slot(holdings, driver, spec) for _ in range(slots)]
        self._rows_in = [tuple(buffer.rows for buffer in slot.inputs) for slot in self._slots]
        self._in_flight: list[int] = []
        # What is left in a buffer pads a batch: never anything that no row has been, such as a wild index.
        for slot in self._slots:
            for buffer in slot.inputs:
                driver.zero(buffer.address, len(buffer.host), self.computing)
        self._wait_for_all(driver, self._slots[0].events.out_done)

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(self._slots)

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return the pinned buffers to fill."""
        return self._rows_in[slot]

    def buffers(self, slot: int) -> tuple[Sequence[Buffer], Sequence[Buffer]]:
        """Return the inputs' and the outputs' buffers."""
        return self._slots[slot].inputs, self._slots[slot].outputs

    def free_slot(self) -> int | None:
        """Return a slot without a batch in flight."""
        return next((at for at, slot in enumerate(self._slots) if not slot.rows), None)

    def is_first(self, slot: int) -> bool:
        """Whether the slot's batch is the first of those in flight, which alone may have been begun."""
        return self._in_flight[:1] == [slot]

    @property
    def is_idle(self) -> bool:
        """Whether no batch is in flight."""
        return not self._in_flight

    def launch(
        self,
        driver: Driver,
        slot: int,
        rows: int,
        enqueue: Callable[[], None],
        placed: Sequence[Placed] = (),
    ) -> None:
        """Copy the first `rows` rows in, have `enqueue` put work into the computing stream, copy them out.

        Rows that are `placed`, in order, are copied from where they stand on the GPU. Returns at once. If a
        call fails nothing is in flight in the slot any more; raises what it raised.
        """
        way = self._slots[slot]
        if way.rows:
            raise ValueError(f"slot {slot} has a batch in flight")
        way.placed = placed
        try:
            self._put(driver, way, rows, enqueue)
        except BaseException:
            self._drain(driver, way.events.out_done)
            way.placed = ()
            raise
        way.rows = rows
        self._in_flight.append(slot)

    def collect(self, driver: Driver, slot: int) -> tuple[NDArray[Any], ...]:
        """Wait for the batch, and return views of its outputs' rows."""
        way = self._slots[slot]
        if not way.rows:
            raise ValueError(f"slot {slot} has no batch in flight")
        try:
            driver.synchronize(way.events.out_done)
        except CudaError:
            self._drain(driver, way.events.out_done)
            raise
        finally:
            rows, way.rows = way.rows, 0
            way.placed = ()
            self._in_flight.remove(slot)
        way.times = _times(driver, way.events)
        return tuple(buffer.rows[:rows] for buffer in way.outputs)

    def times(self, slot: int) -> DeviceTimes | None:
        """Return what the batch took that was collected last; None if it was not measured."""
        return self._slots[slot].times

    def drain(self, driver: Driver) -> None:
        """Wait until nothing is in flight, and let go of what was."""
        self._wait_for_all(driver, self._slots[0].events.out_done)
        for slot in self._slots:
            slot.rows, slot.placed = 0, ()
        self._in_flight.clear()

    def _put(self, driver: Driver, way: Slot, rows: int, enqueue: Callable[[], None]) -> None:
        events, into, out = way.events, self._copying_in, self._copying_out
        driver.record(events.in_begun, into)
        for position, buffer in enumerate(way.inputs):
            self._copy_in(driver, buffer, rows * buffer.row_bytes, _placed_in(way, position))
        driver.record(events.in_done, into)
        driver.wait_event(self.computing, events.in_done)
        driver.record(events.begun, self.computing)
        enqueue()
        driver.record(events.computed, self.computing)
        driver.wait_event(out, events.computed)
        for buffer in way.outputs:
            driver.copy_out(buffer.host[: rows * buffer.row_bytes], buffer.address, out)
        driver.record(events.out_done, out)

    def _copy_in(self, driver: Driver, buffer: Buffer, size_bytes: int, placed: Sequence[Placed]) -> None:
        """Copy the host's bytes to the GPU, and between them what stands there already."""
        into, end = self._copying_in, 0
        for _, begin, rows in placed:
            if begin > end:
                driver.copy_in(buffer.address + end, buffer.host[end:begin], into)
            driver.copy_within(buffer.address + begin, rows.address(), len(rows), into)
            end = begin + len(rows)
        if size_bytes > end:
            driver.copy_in(buffer.address + end, buffer.host[end:size_bytes], into)

    def _drain(self, driver: Driver, event: Any) -> None:
        """Wait for all three streams: if that cannot be done, the buffers cannot be used again."""
        try:
            self._wait_for_all(driver, event)
        except CudaError as error:
            if error.fault not in (Fault.CALL, Fault.MEMORY):
                raise
            text = "what is in flight cannot be waited for"
            raise CudaError("cuEventSynchronize", error.name, Fault.CONTEXT, text) from error

    def _wait_for_all(self, driver: Driver, event: Any) -> None:
        """Wait for what is in each stream; the event is recorded there."""
        for stream in (self._copying_in, self.computing, self._copying_out):
            driver.record(event, stream)
            driver.synchronize(event)

    def _slot(self, holdings: Holdings, driver: Driver, spec: ModelSpec) -> Slot:
        inputs, outputs = (
            tuple(_buffer(holdings, tensor, spec.max_batch_size) for tensor in tensors)
            for tensors in (spec.inputs, spec.outputs)
        )
        for buffer in outputs:
            holdings.twin(buffer.host, buffer.address)
        return Slot(inputs, outputs, Events(*(holdings.event(driver) for _ in range(5))))


def _placed_in(way: Slot, position: int) -> Sequence[Placed]:
    return [one for one in way.placed if one.position == position] if way.placed else ()


def _buffer(holdings: Holdings, tensor: TensorSpec, rows: int) -> Buffer:
    size_bytes = rows * tensor.row_bytes
    host = holdings.pinned(size_bytes)
    shaped = host.view(tensor.dtype).reshape(rows, *tensor.dims)
    return Buffer(host, shaped, holdings.memory(size_bytes), tensor.row_bytes)


def _times(driver: Driver, events: Events) -> DeviceTimes | None:
    try:
        return DeviceTimes(
            int(driver.milliseconds(events.in_begun, events.in_done) * _NANOSECONDS),
            int(driver.milliseconds(events.begun, events.computed) * _NANOSECONDS),
            int(driver.milliseconds(events.computed, events.out_done) * _NANOSECONDS),
        )
    except CudaError as error:
        if error.fault is not Fault.CALL:
            raise
        return None
