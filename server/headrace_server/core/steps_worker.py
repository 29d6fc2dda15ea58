"""The worker of a model that is a program: it hands requests over as calls, and answers what comes of them.

A batch that fails is executed again request by request, as the other worker does, so that a value which
the program cannot take fails its own caller alone; but not where responses may have left already, or where
the program may have changed what it keeps for a sequence.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray

from headrace_engines.steps import Call, StepEngine
from headrace_server.core.arrays import array_of
from headrace_server.core.engine_thread import EngineThread
from headrace_server.core.executing import Executing
from headrace_server.core.model import Model
from headrace_server.core.request import Work
from headrace_server.core.sequence_controls import SequenceControls
from headrace_server.core.steps_batch import Patience, StepsBatch
from headrace_server.core.terms import of_the_model

_logger = logging.getLogger(__name__)

_PATIENCE: Final = Patience()


class StepsWorker:
    """Executes a model's batches on one instance of its program until the model is closed and drained."""

    def __init__(
        self,
        model: Model,
        engine: StepEngine,
        instance: int = 0,
        *,
        patience: Patience = _PATIENCE,
    ) -> None:
        """`instance` numbers the instances of one model, from 0.

        When the `patience` with a caller who does not read is over, the request is given up, and all else
        that stands on its stream.
        """
        sequences = model.facts.settings.sequences
        self._model = model
        self._engine = engine
        self._instance = instance
        self._patience = patience
        self._controls = SequenceControls(sequences, has_batch_axis=engine.spec.has_batch_axis)
        self._separates = sequences is None and not engine.is_decoupled
        self._batch: StepsBatch | None = None
        self._next: Sequence[Work] = ()
        """What was taken and is not in the batch."""
        self._thread = EngineThread(model, engine, instance, self._serve, self._in_hand, self._look)

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the thread has ended and the program is closed; return whether it has."""
        return self._thread.join(timeout_seconds)

    def _serve(self) -> None:
        while (works := self._model.take(wait=True, instance=self._instance)) is not None:
            batch = self._begin(works)
            failure = batch.execute()
            if failure is not None and self._separates and len(works) > 1:
                self._separate(batch.unanswered, failure)
            elif failure is not None:
                batch.fail(failure)
            self._model.finished(works)
            self._batch = None

    def _separate(self, works: Sequence[Work], failure: Exception) -> None:
        """Execute what a failed batch left unanswered one by one."""
        name, requests = self._model.facts.name, len(works)
        _logger.warning(
            "model %s: a batch failed, executing its %d requests alone: %s", name, requests, failure
        )
        for place, work in enumerate(works):
            self._next = works[place + 1 :]
            alone = self._begin([work])
            own_failure = alone.execute()
            if own_failure is not None:
                alone.fail(own_failure)

    def _begin(self, works: Sequence[Work]) -> StepsBatch:
        self._batch = StepsBatch(self._model, self._engine, works, self._call_of, self._patience)
        return self._batch

    def _look(self) -> Executing | None:
        batch = self._batch
        if batch is None:
            return None
        return Executing(self._instance, batch.answered_ns, batch.unanswered_count + len(self._next))

    def _in_hand(self) -> list[Work]:
        unanswered = self._batch.unanswered if self._batch is not None else ()
        return [*unanswered, *self._next]

    def _call_of(self, work: Work) -> Call:
        inputs: dict[str, NDArray[Any]] = {}
        for position, spec in enumerate(self._engine.spec.inputs):
            if work.data[position] is not None:
                array = inputs[spec.name] = array_of(work, position, spec)
                array.flags.writeable = False
        if work.sequence is not None:
            inputs |= self._controls.inputs(work.sequence)
        has_left = functools.partial(getattr, work, "abandoned")
        parameters = of_the_model(work.parameters)
        return Call(work.id, work.rows, inputs, parameters, work.sequence, has_left)
