"""A model that is a program, as an engine: its class is given batches, and what it answers is checked.

The program runs in this process: it can do whatever the process can, and everything else that is
written in Python waits while it computes in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

from headrace_engines.declaration import Declaration
from headrace_engines.errors import ExecutionError
from headrace_engines.python_model import Batch, Response
from headrace_engines.runtime.python_answers import checked
from headrace_engines.runtime.python_program import Program
from headrace_engines.spec import ModelSpec
from headrace_engines.steps import Call, Outcome

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_END: Final[Any] = object()


class PythonEngine:
    """One instance of the program's class. Implements `steps.StepEngine`."""

    platform = "python"

    def __init__(self, path: Path, declaration: Declaration, *, max_batch_size: int, version: str) -> None:
        """Execute the file and load the program; `max_batch_size` is the most rows that it may ask for.

        Raises ModelFileError naming the file, the line where there is one, and what is wrong.
        """
        self._start(Program(path, declaration, max_batch_size, version))

    def _start(self, program: Program) -> None:
        self._program = program
        self._model: Any = program.begin()

    @property
    def spec(self) -> ModelSpec:
        """The tensors that the program declares, or its configuration."""
        return self._program.spec

    @property
    def is_decoupled(self) -> bool:
        """Whether a request may have none or many responses."""
        return self._program.is_decoupled

    def execute(self, calls: Sequence[Call]) -> Generator[Outcome, None, None]:
        """Have the program execute these together: see `StepEngine.execute`.

        What the program raises comes out as it is; what is no Exception (an exit) as a RuntimeError.
        """
        outcomes = self._outcomes(calls)
        try:
            while (outcome := _contained(next, outcomes, None)) is not None:
                yield outcome
        finally:
            _contained(outcomes.close)

    def _outcomes(self, calls: Sequence[Call]) -> Generator[Outcome, None, None]:
        batch = Batch(calls)
        answers = self._model.execute(batch)
        if isinstance(answers, Mapping):
            yield from self._shared(answers, batch)
        elif isinstance(answers, Iterable):
            yield from self._single(answers, calls)
        else:
            raise ExecutionError(
                f"the program answered {type(answers).__name__}: outputs by name, or Responses, expected"
            )

    def replicate(self) -> PythonEngine:
        """Return another instance of the class: its own `load`, the same module. Raises ModelFileError."""
        other = object.__new__(type(self))
        other._start(self._program)
        return other

    def close(self) -> None:
        """Close the program."""
        self._program.end(self._model)

    def _shared(self, answers: Mapping[str, Any], batch: Batch) -> Iterator[Outcome]:
        """Cut the rows of all requests into those of each."""
        outputs = checked(answers, self.spec, batch.rows)
        if not self.spec.has_batch_axis:
            yield Outcome(0, outputs, final=True)
            return
        start = 0
        for place, call in enumerate(batch.requests):
            end = start + call.rows
            yield Outcome(place, tuple(array[start:end] for array in outputs), final=True)
            start = end

    def _single(self, responses: Iterable[Any], calls: Sequence[Call]) -> Iterator[Outcome]:
        """Yield the outcome of each response, and an end for each call that had none."""
        places = {id(call): place for place, call in enumerate(calls)}
        waiting = set(range(len(calls)))
        failed: set[int] = set()
        iterator = iter(responses)
        try:
            # A program may give responses without end to a request that has failed without its knowing.
            while (waiting or not failed) and (response := next(iterator, _END)) is not _END:
                place = self._place(response, places)
                if place in failed:
                    continue
                if place not in waiting:
                    raise ExecutionError(
                        f"request {calls[place].id!r} had its last response, and got another"
                    )
                outcome = self._outcome(place, calls[place], response)
                if outcome.final:
                    waiting.remove(place)
                if isinstance(outcome.outputs, ExecutionError):
                    failed.add(place)
                yield outcome
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
        missing = (
            None if self.is_decoupled else ExecutionError("the program gave no response to this request")
        )
        for place in sorted(waiting):
            yield Outcome(place, missing, final=True)

    def _place(self, response: Any, places: Mapping[int, int]) -> int:
        if not isinstance(response, Response):
            raise ExecutionError(f"the program gave a {type(response).__name__}, a Response expected")
        place = places.get(id(response.request))
        if place is None:
            raise ExecutionError("the program gave a response to a request that is not in its batch")
        return place

    def _outcome(self, place: int, call: Call, response: Response) -> Outcome:
        """Return what the response comes to; one that is not as declared fails its own request alone."""
        if response.error is not None:
            return Outcome(place, response.error, final=True)
        if response.outputs is None:
            error = ExecutionError("the program gave a response without outputs")
            return Outcome(place, None if self.is_decoupled else error, final=True)
        try:
            outputs = checked(response.outputs, self.spec, None if self.is_decoupled else call.rows)
        except ExecutionError as error:
            return Outcome(place, error, final=True)
        return Outcome(place, outputs, response.final or not self.is_decoupled)


def _contained(function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Call the program; what would end the process, or the thread, if it were let through is its failure."""
    try:
        return function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"the program raised {type(error).__name__}") from error
