"""One batch on its way through a program: each outcome becomes an answer as it comes.

The responses of a decoupled program leave at once, the last one of each request included. Where each
request has one response, those of a batch leave together. A request whose caller has gone is dropped, and
when all that are left are such, the program is not listened to any more.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from headrace_engines.errors import DeviceError, ExecutionError, InputError
from headrace_engines.steps import Call, Outcome, StepEngine
from headrace_server.core.delivery import encode
from headrace_server.core.failures import report_execution
from headrace_server.core.model import Model
from headrace_server.core.request import Work
from headrace_server.core.responses import Ending, count_response
from headrace_server.core.statistics import Execution, Statistics
from headrace_server.core.window import Window
from headrace_server.errors import InferenceError, InvalidInput, Overloaded, Unread

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a response waits for a caller who does not read those before it."""

    seconds: float = 10.0
    seconds_beside_others: float = 2.0
    """While other requests wait for the program: less than the time that most callers give a call."""


class StepsBatch:
    """The requests of one batch, of which each gets one final answer."""

    def __init__(
        self,
        model: Model,
        engine: StepEngine,
        works: Sequence[Work],
        call_of: Callable[[Work], Call],
        patience: Patience,
    ) -> None:
        """`call_of` makes of a request what the program sees; for the patience see `StepsWorker`."""
        self._model = model
        self._engine = engine
        self._works = works
        self._call_of = call_of
        self._patience = patience
        self._waiting = dict.fromkeys(range(len(works)))
        """Places of the requests that have no final answer, in their order."""
        self._numbers = [0] * len(works)
        """How many responses each request had so far."""
        self._answers: list[tuple[Work, bytes | InferenceError]] = []
        self._begun_ns = self._started_ns = self._resumed_ns = self._came_ns = time.monotonic_ns()
        self._output_ns = 0
        self._gave_up = False
        """Whether a request was ended of which the program may think that it goes on."""
        self._goes_on = False
        """Whether some requests of the batch were told of as executed, and the batch was not."""
        if engine.is_decoupled:
            for work in works:
                work.window = Window()

    @property
    def unanswered(self) -> list[Work]:
        """The requests that have no final answer."""
        return [self._works[place] for place in self._waiting]

    @property
    def unanswered_count(self) -> int:
        """How many these are; unlike them, any thread may ask for it."""
        return len(self._waiting)

    @property
    def answered_ns(self) -> int:
        """When the program began or gave its last response, on the monotonic clock. Any thread may ask."""
        return self._resumed_ns

    def execute(self) -> Exception | None:
        """Answer what the program answers; return what it failed of, if it failed.

        What is then unanswered is for the caller to answer; else nothing is. Raises DeviceError.
        """
        failure: Exception | None = None
        try:
            calls = [self._call_of(work) for work in self._works]
            self._started_ns = self._resumed_ns = time.monotonic_ns()
            with contextlib.closing(self._engine.execute(calls)) as outcomes:
                for outcome in outcomes:
                    self._take(outcome)
                    if self._is_unheard():
                        break
        except DeviceError:
            self._answer(is_last=True)
            raise
        except Exception as error:  # whatever the program makes of its requests is theirs alone
            failure = error
        self._came_ns = time.monotonic_ns()
        self._drop_abandoned()
        if self._waiting and failure is None:
            failure = ExecutionError("the program ended without an answer to this request")
        self._answer(is_last=True)
        return failure

    def fail(self, error: Exception) -> None:
        """Answer what is unanswered with what the program failed of.

        A refusal tells one caller of their own values: where several are left it cannot be told whose.
        """
        works = self.unanswered
        self._waiting.clear()
        if works:
            self._model.fail(works, self._error(error, alone=len(works) == 1))
        else:
            _logger.warning("model %s failed after its answers", self._model.facts.name, exc_info=error)

    def _is_unheard(self) -> bool:
        """Whether nobody is left for whom the program could go on; one that ended by itself may tidy up."""
        if not self._waiting:
            return self._gave_up
        return all(work.abandoned for work in self.unanswered)

    def _take(self, outcome: Outcome) -> None:
        """Make an answer of the outcome, and note where the time went."""
        place = outcome.call
        self._came_ns = time.monotonic_ns()
        if place in self._waiting:
            number = self._numbers[place]
            ending = self._hand_out(place, outcome)
            output_ns = time.monotonic_ns() - self._came_ns
            if self._engine.is_decoupled:
                self._count(number, ending, self._came_ns - self._resumed_ns, output_ns)
            self._output_ns += output_ns
        self._resumed_ns = time.monotonic_ns()

    def _hand_out(self, place: int, outcome: Outcome) -> Ending:
        work = self._works[place]
        if work.abandoned:
            self._give_up(place)
            self._model.drop([work])
            return Ending.CANCEL
        if isinstance(outcome.outputs, ExecutionError):
            self._end(place)
            self._model.fail([work], self._error(outcome.outputs, alone=True))
            return Ending.FAIL
        answer: bytes | InferenceError = b""
        if outcome.outputs is not None:
            answer = encode(work, _wanted(work, outcome.outputs), is_last=outcome.final)
        if outcome.final or isinstance(answer, InferenceError):
            self._gave_up |= not outcome.final
            self._end(place)
            self._answers.append((work, answer))
            if self._engine.is_decoupled:
                self._answer(is_last=False)
        elif not self._part(place, answer):
            return Ending.FAIL
        if isinstance(answer, InferenceError):
            return Ending.FAIL
        return Ending.SUCCESS if answer else Ending.EMPTY

    def _part(self, place: int, answer: bytes) -> bool:
        """Hand out one response of several, once the caller has read enough of those before it."""
        work = self._works[place]
        if work.window is not None and not self._is_let_in(work.window, len(answer)):
            self._give_up(place)
            self._model.fail([work], Unread(f"model {self._model.facts.name!r}: the responses are not read"))
            return False
        try:
            work.sink.deliver_part(work, answer)
        except Overloaded as error:
            self._give_up(place)
            self._model.fail([work], error)
            return False
        except Exception:  # a transport that fails costs the others nothing
            _logger.exception("a transport did not take a response")
            self._give_up(place)
            self._model.drop([work])
            return False
        self._numbers[place] += 1
        return True

    def _is_let_in(self, window: Window, size_bytes: int) -> bool:
        """Wait until there is room for a response; return whether there was any before patience was over."""
        give_up_at = time.monotonic() + self._patience.seconds
        while not window.admit(size_bytes, self._patience.seconds_beside_others):
            others_wait = self._model.waiting or len(self._waiting) > 1
            if others_wait or time.monotonic() >= give_up_at:
                return False
        return True

    def _answer(self, *, is_last: bool) -> None:
        """Give the model the final answers that there are, and with the last of them the whole batch."""
        answers, self._answers = self._answers, []
        if not answers and not (self._goes_on and is_last):
            return
        self._goes_on = bool(self._waiting) and not is_last
        now_ns = time.monotonic_ns()
        computed_ns = self._came_ns - self._output_ns
        rows = sum([work.rows for work in self._works])
        execution = Execution(
            rows, self._begun_ns, self._started_ns, computed_ns, now_ns, goes_on=self._goes_on
        )
        self._model.executed(answers, execution)

    def _end(self, place: int) -> None:
        del self._waiting[place]

    def _give_up(self, place: int) -> None:
        self._end(place)
        self._gave_up = True

    def _drop_abandoned(self) -> None:
        gone = [place for place in self._waiting if self._works[place].abandoned]
        for place in gone:
            self._end(place)
        if gone:
            self._model.drop([self._works[place] for place in gone])

    def _error(self, error: Exception, *, alone: bool) -> InferenceError:
        if not isinstance(error, InputError):
            return report_execution(self._model.facts.name, error)
        if alone:
            return InvalidInput(str(error))
        refusal = RuntimeError(f"the program refused a batch of several requests: {error}")
        return report_execution(self._model.facts.name, refusal)

    def _count(self, number: int, ending: Ending, infer_ns: int, output_ns: int) -> None:
        def add(statistics: Statistics) -> None:
            count_response(statistics, number, ending, infer_ns=infer_ns, output_ns=output_ns)

        self._model.count(add)


def _wanted(work: Work, outputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return [outputs[position] for position in work.wanted]
