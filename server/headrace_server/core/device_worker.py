"""The worker of an engine on a device of its own: several batches in flight, and an engine that is made anew.

While one batch is computed the next is assembled, taken as late as it can be (`lookahead`). Where an error on
the device has spoilt the engine, the callers of the batch that met it are told; all others in flight are
executed again by the renewed engine, one batch at a time, so that the one which spoils it again is known.
"""

from __future__ import annotations

import collections
import logging
import time
from typing import Final

from headrace_engines.engine import DeviceTimes, Engine
from headrace_engines.errors import DeviceError, EngineError, EngineSpoilt
from headrace_server.core.executing import Executing
from headrace_server.core.filling import fill
from headrace_server.core.flights import Flight, Flights
from headrace_server.core.lookahead import Lookahead
from headrace_server.core.model import Model
from headrace_server.core.request import Work
from headrace_server.core.worker import Worker, staging
from headrace_server.errors import DeadlineMissed

_logger = logging.getLogger(__name__)

_MOST_RENEWALS: Final = 5
"""In succession, without an answer between them: what is spoilt again and again will not answer."""


class DeviceWorker(Worker):
    """Executes a model's batches on one engine, which has slots for several, or a device of its own."""

    def __init__(self, model: Model, engine: Engine, instance: int = 0) -> None:
        """`instance` numbers the engines of one model, from 0."""
        super().__init__(model, engine, instance)
        self._flights = Flights()
        self._free = collections.deque(range(engine.slots))
        self._largest_rows = engine.spec.max_batch_size or 1
        self._lookahead = Lookahead(self._largest_rows)
        self._renewals = 0
        """Since the last answer."""
        self._renewing_ns = 0
        """Since when the engine is being made anew; 0 while it is not."""

    def _give_up(self) -> list[Work]:
        return self._flights.give_up()

    def _look(self) -> Executing | None:
        requests, begun_ns = self._flights.in_hand()
        renewing_ns = self._renewing_ns
        if not requests and not renewing_ns:
            return None
        since_ns = max(begun_ns, self._answered_ns, renewing_ns)
        return Executing(self._instance, since_ns, requests, self._gpu)

    def _serve(self) -> None:
        try:
            self._staging = staging(self._engine)
        except EngineSpoilt as spoilt:  # by another engine on its device
            self._renew(spoilt)
        flights = self._flights
        works: list[Work] | None = []
        while works is not None or flights or flights.has_again:
            if flights.has_again and not flights:
                self._launch(flights.begin_again())
            elif works is None or flights.has_again or len(flights) == self._engine.slots:
                self._land()
            elif works := self._take():
                self._launch(flights.begin(works))
            elif flights:
                self._land()

    def _take(self) -> list[Work] | None:
        """Return the next batch; behind another one, what there is once there is no more time to wait."""
        if not self._flights:
            return self._model.take(wait=True, instance=self._instance)
        running, now = self._flights.first(), time.monotonic()
        waiting = self._model.waiting_rows
        until = self._lookahead.take_at(now, waiting, running.rows, running.started_ns)
        if until > now:
            self._model.await_batch(until)
        return self._model.take(wait=False, instance=self._instance)

    def _place(self, flight: Flight, slot: int) -> None:
        """Have the engine begin with the batch; the GPU brings what stands there already."""
        device, takes_rows = self._engine.device, self._model.facts.takes_device_rows
        if device is None or not takes_rows or all(work.rendering is None for work in flight.works):
            super()._place(flight, slot)
            return
        placed = fill(self._staging[slot], flight.works, device.gpu)
        device.submit(slot, flight.rows, placed)
        flight.slot = slot

    def _launch(self, flight: Flight) -> None:
        try:
            self._place(flight, self._free[0])
        except DeviceError:
            raise
        except Exception as error:
            self._failed(flight, error)
            return
        flight.started_ns = time.monotonic_ns()
        if flight.slot >= 0:
            self._free.popleft()

    def _land(self) -> None:
        flight = self._flights.first()
        try:
            outputs = self._collect(flight)
        except DeviceError:
            raise
        except Exception as error:
            self._failed(flight, error)
            return
        computed_ns = self._answered_ns = time.monotonic_ns()
        times = self._times(flight)
        self._lookahead.landed(flight.rows, flight.begun_ns, flight.started_ns, computed_ns, times)
        if times is not None:
            computed_ns = self._count(flight, computed_ns, times)
        with self._flights.claimed(flight):
            self._answer(flight, outputs, computed_ns)
        self._free_slot(flight)
        self._renewals = 0

    def _failed(self, flight: Flight, error: Exception) -> None:
        if isinstance(error, EngineSpoilt):
            self._recover(flight, error)
            return
        self._free_slot(flight)
        if len(flight.works) == 1:
            with self._flights.claimed(flight):
                self._fail(flight.works, error)
        else:
            self._tell_separation(flight, error)
            self._flights.separate(flight)

    def _free_slot(self, flight: Flight) -> None:
        if flight.slot >= 0:
            self._free.append(flight.slot)

    def _recover(self, flight: Flight, spoilt: EngineSpoilt) -> None:
        """Answer those whose batch may be the cause, and have the others executed by a renewed engine."""
        if spoilt.was_executed:
            with self._flights.claimed(flight):
                self._fail(flight.works, spoilt)
        self._flights.ground()
        self._renew(spoilt)
        self._flights.put_again(self._still_wanted(self._flights.claim_again()))

    def _renew(self, spoilt: EngineSpoilt) -> None:
        """Make the engine usable again. Raises DeviceError if it will not be."""
        name, device = self._model.facts.name, self._engine.device
        if device is None:
            raise DeviceError(f"the engine cannot be made anew: {spoilt}") from spoilt
        begun_ns = self._renewing_ns = time.monotonic_ns()
        while True:
            self._renewals += 1
            if self._renewals > _MOST_RENEWALS:
                raise DeviceError(f"spoilt {self._renewals} times without an answer: {spoilt}") from spoilt
            _logger.warning("model %s: the engine is made anew in a fresh context: %s", name, spoilt)
            try:
                device.renew()
                self._staging = staging(self._engine)
                break
            except EngineSpoilt as again:  # by another engine on its device
                spoilt = again
            except DeviceError:
                raise
            except EngineError as error:
                raise DeviceError(f"the engine cannot be made anew: {error}") from error
        self._free = collections.deque(range(self._engine.slots))
        self._renewing_ns = 0
        seconds = (time.monotonic_ns() - begun_ns) * 1e-9
        _logger.info("model %s: the engine answers again after %.1f s", name, seconds)

    def _still_wanted(self, batches: list[list[Work]]) -> list[list[Work]]:
        """Return the batches without the requests whose callers have gone, or whose deadline has passed."""
        now = time.monotonic()
        gone: list[Work] = []
        late: list[Work] = []
        kept: list[list[Work]] = []
        for batch in batches:
            wanted: list[Work] = []
            for work in batch:
                (gone if work.abandoned else late if work.deadline <= now else wanted).append(work)
            if wanted:
                kept.append(wanted)
        self._model.drop(gone)
        name = self._model.facts.name
        self._model.fail(late, DeadlineMissed(f"model {name!r}: the deadline passed while it was made anew"))
        return kept

    def _times(self, flight: Flight) -> DeviceTimes | None:
        """Return what the batch took on the device, if that is known."""
        device = self._engine.device
        if device is None or flight.slot < 0:
            return None
        try:
            return device.times(flight.slot)
        except EngineError:  # the rows are there all the same
            return None

    def _count(self, flight: Flight, landed_ns: int, times: DeviceTimes) -> int:
        """Count the device's own times, and part the batch's by them; return when it had been computed."""
        in_ns, compute_ns, out_ns = times.copy_in_ns, times.compute_ns, times.copy_out_ns
        self._model.count(lambda statistics: statistics.on_device.add(1, in_ns, compute_ns, out_ns))
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug(
                "model %s: %d rows: copy in %.3f ms, compute %.3f ms, copy out %.3f ms",
                self._model.facts.name, flight.rows, in_ns / 1e6, compute_ns / 1e6, out_ns / 1e6,
            )  # fmt: skip
        flight.started_ns = min(flight.started_ns + in_ns, landed_ns)
        return max(flight.started_ns, landed_ns - out_ns)
