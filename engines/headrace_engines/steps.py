"""The interface between a scheduler and a model that is a program: it sees requests, and not rows alone.

A program may keep state between the requests of a sequence, and may answer a request with none, one or
many responses. So it is handed calls instead of a staging buffer, and yields outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from headrace_engines.errors import ExecutionError
from headrace_engines.spec import ModelSpec


class SequenceTurn(NamedTuple):
    """A request's place in a sequence: which one, and whether it is the first or the last.

    `slot`, below the model's `max_batch_size`, is the sequence's own while it lasts: what the program
    keeps for it can stand there, and `start` says that what stands there is over.
    """

    id: int | str
    start: bool
    end: bool
    slot: int = 0


def _nobody_left() -> bool:
    return False


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One request, as the program sees it.

    `inputs` holds each input that came, by name: read-only, (rows, *dims) where the model has a batch
    axis; an optional input that did not come is absent. `has_left` tells whether the caller has gone.
    """

    id: str
    rows: int
    inputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=lambda: MappingProxyType({}))
    sequence: SequenceTurn | None = None
    has_left: Callable[[], bool] = _nobody_left

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more, at this moment."""
        return self.has_left()


class Outcome(NamedTuple):
    """A response to the call at the place `call`, or what it failed of; `final` says that it is the last one.

    `outputs` stand in the order of the spec's outputs; None where the call ends without another response.
    """

    call: int
    outputs: tuple[NDArray[Any], ...] | ExecutionError | None
    final: bool


@runtime_checkable
class StepEngine(Protocol):
    """A program that answers calls. It belongs to one thread at a time."""

    @property
    def spec(self) -> ModelSpec:
        """The model's tensors; `max_batch_size` bounds the rows of the calls that are executed together."""

    @property
    def platform(self) -> str:
        """What runs it, in the protocol's words: "python"."""

    @property
    def is_decoupled(self) -> bool:
        """Whether a call may have none or many responses; else each has exactly one."""

    def execute(self, calls: Sequence[Call]) -> Generator[Outcome, None, None]:
        """Execute these calls together, and yield what comes of them, one final outcome for each.

        Raises ExecutionError, also while it is being read: that is the outcome of every call that has no
        final one yet. Whoever reads no further closes it.
        """

    def replicate(self) -> StepEngine:
        """Return another instance of the same model, which may be executed beside this one."""

    def close(self) -> None:
        """End the program; it is not called again."""
