"""The thread that owns one engine instance: take a batch, fill the staging buffer, compute, hand out rows.

An engine with several slots has several batches in flight: while one computes, the next is assembled.
With one slot the same loop takes, executes and answers in turn. Rows are copied once on the way in,
from the request's bytes into the staging buffer, and once on the way out, when a sink encodes them.
"""

from __future__ import annotations

import collections
import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.engine import Engine
from headrace_engines.errors import DeviceError, ExecutionError
from headrace_server.core.model import Model
from headrace_server.core.request import Work
from headrace_server.core.statistics import Execution
from headrace_server.errors import EngineFailed, InferenceError

_logger = logging.getLogger(__name__)
_Arrays = tuple[NDArray[Any], ...]


class _Flight:
    """A batch on its way through the engine; `collect` waits for its outputs."""

    __slots__ = ("begun_ns", "collect", "rows", "started_ns", "works")

    def __init__(self, works: list[Work], begun_ns: int) -> None:
        self.works = works
        self.rows = sum([work.rows for work in works])
        self.begun_ns = begun_ns
        self.started_ns = begun_ns
        self.collect: Callable[[], _Arrays] = tuple


class Worker:
    """Executes a model's batches on one engine until the model is closed and drained."""

    def __init__(self, model: Model, engine: Engine, instance: int = 0) -> None:
        """`instance` numbers the engines of one model, from 0."""
        self._model = model
        self._engine = engine
        self._instance = instance
        self._slots = collections.deque(range(engine.slots))
        self._staging = _staging(engine)
        name = f"engine-{model.facts.name}-{model.facts.version}-{instance}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the thread has ended and the engine is closed; return whether it has."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        flights: collections.deque[_Flight] = collections.deque()
        try:
            self._serve(flights)
        except DeviceError as error:
            _logger.critical("model %s is lost: %s", self._model.facts.name, error)
            self._model.lose(str(error), [work for flight in flights for work in flight.works])
        except Exception:
            _logger.critical("model %s: its worker stopped", self._model.facts.name, exc_info=True)
            self._model.lose("its worker stopped", [work for flight in flights for work in flight.works])
        finally:
            self._engine.close()

    def _serve(self, flights: collections.deque[_Flight]) -> None:
        taken: list[Work] | None = []
        while taken is not None or flights:
            if taken is not None and len(flights) < self._engine.slots:
                taken = self._model.take(wait=not flights, instance=self._instance)
                if taken:
                    self._launch(taken, flights)
                    continue
            if flights:
                self._land(flights)

    def _launch(self, works: list[Work], flights: collections.deque[_Flight]) -> None:
        flight = _Flight(works, time.monotonic_ns())
        flights.append(flight)
        try:
            if self._staging:
                self._stage(flight)
            else:
                inputs = self._arrays(flight.works)
                flight.started_ns = time.monotonic_ns()
                flight.collect = functools.partial(self._engine.run, inputs)
        except DeviceError:
            raise
        except Exception as error:
            self._separate(flight, error)
            flights.pop()

    def _stage(self, flight: _Flight) -> None:
        slot = self._slots[0]
        for position, buffer in enumerate(self._staging[slot]):
            offset = 0
            for work in flight.works:
                data: Any = work.data[position]
                end = offset + len(data)
                buffer[offset:end] = data
                offset = end
        flight.started_ns = time.monotonic_ns()
        flight.collect = functools.partial(self._engine.wait, slot)
        self._engine.submit(slot, flight.rows)
        self._slots.rotate(-1)

    def _arrays(self, works: list[Work]) -> list[NDArray[Any]]:
        inputs = []
        for position in range(len(self._engine.spec.inputs)):
            arrays = [self._array(work, position) for work in works]
            inputs.append(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        return inputs

    def _array(self, work: Work, position: int) -> NDArray[Any]:
        spec = self._engine.spec.inputs[position]
        data: Any = work.data[position]  # only programs have inputs that may be missing
        shape: Any = work.shapes[position] if work.shapes is not None else (work.rows, *spec.dims)
        array = np.frombuffer(data, spec.dtype) if isinstance(data, bytes) else data
        return array.reshape(shape)

    def _land(self, flights: collections.deque[_Flight]) -> None:
        flight = flights[0]
        try:
            outputs = self._collect(flight)
        except DeviceError:
            raise
        except Exception as error:
            self._separate(flight, error)
        else:
            self._answer(flight, outputs)
        flights.popleft()

    def _collect(self, flight: _Flight) -> _Arrays:
        outputs = flight.collect()
        if self._engine.spec.has_batch_axis and any(len(output) != flight.rows for output in outputs):
            came = ", ".join(str(len(output)) for output in outputs)
            raise ExecutionError(f"the engine answered {came} rows to {flight.rows}")
        return outputs

    def _answer(self, flight: _Flight, outputs: _Arrays) -> None:
        computed_ns = time.monotonic_ns()
        answers = self._encode(flight.works, outputs)
        execution = Execution(
            flight.rows, flight.begun_ns, flight.started_ns, computed_ns, time.monotonic_ns()
        )
        self._model.executed(answers, execution)

    def _separate(self, flight: _Flight, error: Exception) -> None:
        """Execute the requests of a failed batch one by one: the failure is only for whom it meets alone.

        Requests leave the flight as they are answered, so that a device lost meanwhile finds the rest.
        """
        if len(flight.works) == 1:
            self._fail(flight.works, error)
            return
        name, requests = self._model.facts.name, len(flight.works)
        _logger.warning(
            "model %s: a batch failed, executing its %d requests alone: %s", name, requests, error
        )
        while flight.works:
            alone = _Flight(flight.works[:1], time.monotonic_ns())
            alone.collect = functools.partial(self._engine.run, self._arrays(alone.works))
            try:
                outputs = self._collect(alone)
            except DeviceError:
                raise
            except Exception as own_error:
                self._fail(alone.works, own_error)
            else:
                self._answer(alone, outputs)
            del flight.works[0]

    def _encode(self, works: Sequence[Work], outputs: _Arrays) -> list[tuple[Work, bytes | InferenceError]]:
        answers: list[tuple[Work, bytes | InferenceError]] = []
        shared = self._engine.spec.has_batch_axis
        start = 0
        for work in works:
            end = start + work.rows
            wanted = [outputs[i][start:end] if shared else outputs[i] for i in work.wanted]
            try:
                answers.append((work, work.sink.encode(work, wanted)))
            except InferenceError as error:
                answers.append((work, error))
            except Exception as error:
                answers.append((work, _report("the answer could not be encoded", error, self._model)))
            start = end
        return answers

    def _fail(self, works: list[Work], error: Exception) -> None:
        what = str(error) if isinstance(error, ExecutionError) else "the engine failed"
        self._model.fail(works, _report(what, error, self._model))


def _report(what: str, error: Exception, model: Model) -> EngineFailed:
    """Log the error under an id, in full unless its text says it all; return the one for the callers."""
    error_id = secrets.token_hex(4)
    trace = None if isinstance(error, ExecutionError) else error
    _logger.error("model %s: %s (error %s)", model.facts.name, what, error_id, exc_info=trace)
    return EngineFailed(f"model {model.facts.name!r}: {what}", error_id)


def _staging(engine: Engine) -> list[list[memoryview]]:
    """Return each slot's buffers as bytes; empty for a model that is not staged."""
    if not engine.spec.is_staged:
        return []
    return [
        [array.reshape(-1).view(np.uint8).data for array in engine.inputs(slot)]
        for slot in range(engine.slots)
    ]
