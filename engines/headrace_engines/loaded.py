"""What the load of a version gives: engines that are ready to serve, and why they were chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace_engines.engine import Engine
from headrace_engines.memory import Held
from headrace_engines.steps import StepEngine

if TYPE_CHECKING:
    from headrace_engines.plan_order import PlanOrder


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine ready to serve, the name of the file it runs, and a line for each candidate.

    `held` is the memory that all its instances take.
    `further` are engines of the same file on further GPUs, and `counts` says how many instances there are to
    be of `engine` and of each of them. `rebuilds` are plans that would serve better and can be built here,
    best first, and `is_rebuilt` says that such a plan was chosen. `warned` are those lines of `why` that
    were logged as warnings.
    """

    engine: Engine | StepEngine
    artefact: str
    why: tuple[str, ...]
    held: Held = Held()
    why_alone: str = ""
    """What happens to rows in a batch, for which they are executed one at a time; "" where they are not."""
    further: tuple[Engine, ...] = ()
    counts: tuple[int, ...] = (1,)
    rebuilds: tuple[PlanOrder, ...] = ()
    is_rebuilt: bool = False
    warned: tuple[str, ...] = ()

    @property
    def engines(self) -> tuple[Engine | StepEngine, ...]:
        """All engines, each of which `counts` tells the number of instances of."""
        return (self.engine, *self.further)

    @property
    def places(self) -> tuple[tuple[int | None, int], ...]:
        """The GPU of each engine, None for the CPU, and how many instances there are to be of it."""
        return tuple(zip(map(_gpu_of, self.engines), self.counts, strict=True))

    def close(self) -> None:
        """Close all engines."""
        for engine in self.engines:
            engine.close()


def _gpu_of(engine: Engine | StepEngine) -> int | None:
    device = None if isinstance(engine, StepEngine) else engine.device
    return None if device is None else device.gpu
