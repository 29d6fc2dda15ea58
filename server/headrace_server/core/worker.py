"""The thread that owns one engine instance: take a batch, fill the staging buffer, compute, hand out rows.

Rows are copied once on the way in, from the request's bytes into the staging buffer, and once on the way
out, when a sink encodes them.

An engine is lent for quick batches to whoever brings work while its thread waits: waking that costs more.
"""

from __future__ import annotations

import collections
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.engine import Engine
from headrace_engines.errors import DeviceError, ExecutionError, MemoryExhausted
from headrace_server.core.arrays import array_of
from headrace_server.core.delivery import Answers, encode
from headrace_server.core.engine_thread import EngineThread
from headrace_server.core.executing import Executing
from headrace_server.core.failures import report_execution
from headrace_server.core.flights import Flight, halves
from headrace_server.core.model import Model
from headrace_server.core.pace import Pace
from headrace_server.core.request import Work
from headrace_server.core.statistics import Execution
from headrace_server.errors import InferenceError

_logger = logging.getLogger(__name__)
_Arrays = tuple[NDArray[Any], ...]

_MOST_LENT_BYTES: Final = 1 << 16
"""Of inputs and outputs together: copying and encoding as many is quick as well."""


class Worker:
    """Executes a model's batches on one engine, one at a time, until the model is closed and drained."""

    def __init__(self, model: Model, engine: Engine, instance: int = 0) -> None:
        """`instance` numbers the engines of one model, from 0."""
        self._model = model
        self._engine = engine
        self._instance = instance
        self._has_batch_axis = engine.spec.has_batch_axis
        self._staging: list[list[memoryview]] = []
        self._flight: Flight | None = None
        self._answered_ns = 0
        """When the last execution had computed."""
        self._gpu = None if engine.device is None else engine.device.gpu
        self._thread = EngineThread(
            model, engine, instance, self._serve, self._give_up, self._look, self._gpu
        )
        self._most_lent_rows = _most_lent_rows(model, engine)
        self._pace = Pace() if self._most_lent_rows else None

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the thread has ended and the engine is closed, or given up; return whether it has."""
        return self._thread.join(timeout_seconds)

    def _give_up(self) -> list[Work]:
        flight = self._flight
        self._flight = None  # the thread may come after one that has had the engine
        return [] if flight is None else flight.works

    def _look(self) -> Executing | None:
        flight = self._flight
        if flight is None:
            return None
        return Executing(self._instance, max(flight.begun_ns, self._answered_ns), len(flight.works))

    def _serve(self) -> None:
        self._staging = staging(self._engine)
        while (works := self._model.take(wait=True, instance=self._instance)) is not None:
            self._serve_one(works)

    def _serve_one(self, works: list[Work]) -> None:
        flight = self._flight = Flight(works)
        try:
            self._place(flight, 0)
            outputs = self._collect(flight)
        except DeviceError:
            raise
        except Exception as error:
            self._separate(flight, error)
        else:
            self._answered_ns = time.monotonic_ns()
            self._answer(flight, outputs, self._answered_ns)
        self._flight = None

    def _place(self, flight: Flight, slot: int) -> None:
        """Have the engine begin with the batch, in this slot if rows of the model are staged."""
        if not self._staging:
            flight.inputs = self._arrays(flight.works)
            flight.started_ns = time.monotonic_ns()
            return
        for position, buffer in enumerate(self._staging[slot]):
            offset = 0
            for work in flight.works:
                data: Any = work.data[position]
                end = offset + len(data)
                buffer[offset:end] = data
                offset = end
        flight.started_ns = time.monotonic_ns()
        self._engine.submit(slot, flight.rows)
        flight.slot = slot

    def _arrays(self, works: list[Work]) -> list[NDArray[Any] | None]:
        inputs: list[NDArray[Any] | None] = []
        for position, spec in enumerate(self._engine.spec.inputs):
            if works[0].data[position] is None:  # and of all: only equal shapes share a batch
                inputs.append(None)
                continue
            arrays = [array_of(work, position, spec) for work in works]
            inputs.append(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        return inputs

    def _collect(self, flight: Flight) -> _Arrays:
        outputs = self._outputs(flight) if self._pace is None else self._timed_outputs(flight, self._pace)
        if self._has_batch_axis:
            for output in outputs:
                if len(output) != flight.rows:
                    came = ", ".join(str(len(one)) for one in outputs)
                    raise ExecutionError(f"the engine answered {came} rows to {flight.rows}")
        return outputs

    def _outputs(self, flight: Flight) -> _Arrays:
        slot = flight.slot
        return self._engine.wait(slot) if slot >= 0 else self._engine.run(flight.inputs)

    def _timed_outputs(self, flight: Flight, pace: Pace) -> _Arrays:
        """Collect, and let other threads execute batches here of which it is known that they are quick."""
        before = pace.quick_rows
        begun_ns = time.thread_time_ns()
        try:
            return self._outputs(flight)
        finally:
            pace.took(flight.rows, time.thread_time_ns() - begun_ns)
            if pace.quick_rows != before:
                self._model.lend(self._execute_here, min(pace.quick_rows, self._most_lent_rows))

    def _execute_here(self, works: list[Work]) -> None:
        """Execute a batch on the calling thread, while the engine's own one waits for work."""
        self._thread.execute(functools.partial(self._serve_one, works))

    def _answer(self, flight: Flight, outputs: _Arrays, computed_ns: int) -> None:
        answers, gone = self._encode(flight.works, outputs)
        execution = Execution(
            flight.rows, flight.begun_ns, flight.started_ns, computed_ns, time.monotonic_ns()
        )
        self._model.executed(answers, execution)
        if gone:
            self._model.drop(gone)

    def _separate(self, flight: Flight, error: Exception) -> None:
        """Execute a failed batch in parts, down to single requests: a failure is for whom it meets alone.

        Requests leave the flight as they are answered, so that a device lost meanwhile finds the rest.
        """
        if len(flight.works) == 1:
            self._fail(flight.works, error)
            return
        parts = collections.deque(self._parts(flight, error))
        while parts:
            part = Flight(parts.popleft())
            failure = self._execute_part(part)
            if failure is not None and len(part.works) > 1:
                parts.extendleft(reversed(self._parts(part, failure)))
                continue
            if failure is not None:
                self._fail(part.works, failure)
            del flight.works[: len(part.works)]

    def _execute_part(self, part: Flight) -> Exception | None:
        """Execute a part of a failed batch and answer it, or return why it failed, too."""
        try:
            part.inputs = self._arrays(part.works)
            outputs = self._collect(part)
        except DeviceError:
            raise
        except Exception as error:
            return error
        self._answered_ns = time.monotonic_ns()
        self._answer(part, outputs, self._answered_ns)
        return None

    def _parts(self, flight: Flight, error: Exception) -> list[list[Work]]:
        """Return how a batch of several requests is to be executed again: halved where memory did not suffice
        for it, else each request alone."""
        name, works = self._model.facts.name, flight.works
        if not isinstance(error, MemoryExhausted):
            _logger.warning(
                "model %s: a batch failed, executing its %d requests alone: %s", name, len(works), error
            )
            return [[work] for work in works]
        if self._model.exhausted(flight.rows):
            _logger.warning(
                "model %s: memory does not suffice for a batch of %d rows, which is executed in parts; "
                "batches are smaller for a while: %s",
                name, flight.rows, error,
            )  # fmt: skip
        return halves(works)

    def _encode(self, works: Sequence[Work], outputs: _Arrays) -> tuple[Answers, list[Work]]:
        """Return the answers, and the work whose caller has gone.

        That is not encoded: a sink may write to memory that the caller uses for something else by now.
        """
        answers: list[tuple[Work, bytes | InferenceError]] = []
        gone: list[Work] = []
        shared = self._has_batch_axis
        start = 0
        for work in works:
            end = start + work.rows
            if work.abandoned:
                gone.append(work)
            else:
                mine = []
                for position in work.wanted:  # not a comprehension: that costs more than all it does
                    output = outputs[position]
                    mine.append(output[start:end] if shared else output)
                answers.append((work, encode(work, mine)))
            start = end
        return answers, gone

    def _fail(self, works: list[Work], error: Exception) -> None:
        self._model.fail(works, report_execution(self._model.facts.name, error))


def _most_lent_rows(model: Model, engine: Engine) -> int:
    """Return how many rows others may execute on their threads, if that is quick; 0 if none at all."""
    spec, is_alone = engine.spec, model.facts.settings.instances == 1
    if not (is_alone and engine.computes_on_caller and engine.slots == 1 and spec.is_staged):
        return 0
    if not all(tensor.is_fixed for tensor in spec.outputs):
        return 0
    row_bytes = sum(tensor.row_bytes for tensor in (*spec.inputs, *spec.outputs))
    return _MOST_LENT_BYTES // max(row_bytes, 1)


def staging(engine: Engine) -> list[list[memoryview]]:
    """Return each slot's buffers as bytes; empty for a model that is not staged."""
    if not engine.spec.is_staged:
        return []
    return [
        [array.reshape(-1).view(np.uint8).data for array in engine.inputs(slot)]
        for slot in range(engine.slots)
    ]
