"""The worker of an engine on a device of its own: several batches in flight, and an engine that is made anew.

While one batch is computed the next is assembled, taken as late as it can be (`lookahead`). Where an error on
the device has spoilt the engine, all that was in flight is executed again by the renewed one, a batch at a
time. The one that was being executed may be the cause: it is tried once more (`trials`), with nothing beside
it on the device, and its callers are told if that spoils the engine again.
"""

from __future__ import annotations

import collections
import logging
import time

from headrace_engines.engine import DeviceTimes, Engine
from headrace_engines.errors import DeviceError, EngineError, EngineSpoilt
from headrace_server.core.executing import Executing
from headrace_server.core.filling import fill
from headrace_server.core.flights import Batch, Flight, Flights
from headrace_server.core.lookahead import Lookahead
from headrace_server.core.model import Model
from headrace_server.core.renewal import Renewal
from headrace_server.core.request import Work
from headrace_server.core.trials import Trials, trials_on
from headrace_server.core.worker import Worker, staging
from headrace_server.errors import DeadlineMissed

_logger = logging.getLogger(__name__)


class DeviceWorker(Worker):
    """Executes a model's batches on one engine, which has slots for several, or a device of its own."""

    def __init__(self, model: Model, engine: Engine, instance: int = 0) -> None:
        """`instance` numbers the engines of one model, from 0."""
        super().__init__(model, engine, instance)
        self._flights = Flights()
        self._free = collections.deque(range(engine.slots))
        self._largest_rows = engine.spec.max_batch_size or 1
        self._lookahead = Lookahead(self._largest_rows)
        self._renewal = Renewal(model.facts.name, engine)
        self._trials = Trials() if self._gpu is None else trials_on(self._gpu)
        self._has_turn = False

    @property
    def has_batch(self) -> bool:
        """Whether a batch is in the air: see `trials.Party`."""
        return bool(self._flights)

    def _give_up(self) -> list[Work]:
        works = self._flights.give_up()
        self._trials.wake()  # the thread may wait for its turn
        return works

    def _look(self) -> Executing | None:
        requests, begun_ns = self._flights.in_hand()
        renewing_ns = self._renewal.since_ns
        if renewing_ns:
            return Executing(self._instance, renewing_ns, requests, self._gpu, is_renewal=True)
        if not requests:
            return None
        # What is not in the air waits for its turn, and is not executed meanwhile.
        since_ns = max(begun_ns, self._answered_ns) if begun_ns else time.monotonic_ns()
        return Executing(self._instance, since_ns, requests, self._gpu)

    def _serve(self) -> None:
        self._trials.join(self)
        try:
            self._serve_all()
        finally:
            self._trials.leave(self)

    def _serve_all(self) -> None:
        try:
            self._staging = staging(self._engine)
        except EngineSpoilt as spoilt:  # by another engine on its device
            self._renew(spoilt)
        flights = self._flights
        works: list[Work] | None = []
        while works is not None or flights or flights.has_again:
            if flights.has_again and not flights:
                self._launch_again()
            elif works is None or flights.has_again or len(flights) == self._engine.slots:
                self._land()
            elif works := self._take():
                if self._trials.are_on:
                    flights.put_again([Batch(works)])
                else:
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

    def _launch_again(self) -> None:
        """Have one batch executed by itself: in turn with all on the device, while batches are on trial."""
        if self._trials.are_on:
            self._trials.take_turn(self, self._flights.check)
            self._has_turn = True
            self._drop_unwanted()
        if self._flights.has_again:
            self._launch(self._flights.begin_again())
        else:
            self._left()

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
        self._renewal.answered()
        self._free_slot(flight)

    def _failed(self, flight: Flight, error: Exception) -> None:
        if isinstance(error, EngineSpoilt):
            self._recover(flight, error)
            return
        if len(flight.works) == 1:
            with self._flights.claimed(flight):
                self._fail(flight.works, error)
        else:
            self._flights.separate(flight, self._parts(flight, error))
        self._free_slot(flight)

    def _free_slot(self, flight: Flight) -> None:
        if flight.slot >= 0:
            self._free.append(flight.slot)
        self._left()

    def _left(self) -> None:
        """Note that a batch is in the air no more."""
        self._give_turn()
        if not self._flights and not self._flights.has_tried:
            self._trials.acquit(self)  # whatever `are_on` says: who saw the batch may be about to suspect

    def _give_turn(self) -> None:
        if self._has_turn:  # also when the trials have ended meanwhile
            self._has_turn = False
            self._trials.give_turn(self)

    def _recover(self, flight: Flight, spoilt: EngineSpoilt) -> None:
        """Have all in flight executed again by a renewed engine, but for a batch that has spoilt it twice."""
        self._trials.suspect()
        first = self._flights.first()
        suspect = flight if spoilt.was_executed else None if flight is first else first
        if suspect is not None and suspect.was_tried:
            with self._flights.claimed(suspect):
                self._fail(suspect.works, spoilt)
        elif suspect is not None:
            suspect.was_tried = True
        self._flights.ground()
        self._give_turn()
        self._renew(spoilt)
        self._drop_unwanted()
        self._left()

    def _renew(self, spoilt: EngineSpoilt) -> None:
        self._trials.suspect()
        self._staging = self._renewal.renew(spoilt)
        self._free = collections.deque(range(self._engine.slots))

    def _drop_unwanted(self) -> None:
        """Of what is to be executed again, end what nobody waits for, or not in time any more."""
        now = time.monotonic()
        gone: list[Work] = []
        late: list[Work] = []
        kept: list[Batch] = []
        for batch in self._flights.claim_again():
            wanted: list[Work] = []
            for work in batch.works:
                (gone if work.abandoned else late if work.deadline <= now else wanted).append(work)
            if wanted:
                kept.append(batch._replace(works=wanted))
        name = self._model.facts.name
        try:
            self._model.drop(gone)
            self._model.fail(
                late, DeadlineMissed(f"model {name!r}: the deadline passed while it was made anew")
            )
        finally:
            self._flights.put_again(kept)

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
        # What a batch waits for the one before it, once it was copied, is not what computing it takes.
        computed_ns = max(flight.started_ns, landed_ns - out_ns)
        flight.started_ns = max(flight.started_ns, computed_ns - compute_ns)
        return computed_ns
