"""What stands in for a plan that was built for another machine: one that this machine has built, or will.

The file in the version's folder is left as it is: it may be another machine's, and must not be changed while
servers read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_engines.candidates import Candidate, Runner
from headrace_engines.errors import EngineError
from headrace_engines.machine import Machine
from headrace_engines.manifest import Manifest

if TYPE_CHECKING:
    from headrace_engines.plan_order import PlanOrder
    from headrace_engines.rebuilt_plans import RebuiltPlans


class Replacements:
    """The plans of one version that others have to stand in for; `orders` are those that are to be built."""

    def __init__(
        self, folder: Path, described: Manifest | None, machine: Machine, rebuilt: RebuiltPlans | None
    ) -> None:
        self._folder = folder
        self._manifest = described
        self._machine = machine
        self._rebuilt = rebuilt
        self.orders: list[PlanOrder] = []

    def instead_of(self, candidate: Candidate, gpus: Sequence[int], error: EngineError) -> Candidate | str:
        """Return the plan that this machine has built for one that it cannot load, if that is why.

        Otherwise a text: what will be done about it, or can be; "" where nothing is to be said.
        """
        if candidate.runner is not Runner.TENSORRT or not self._is_mismatch(error):
            return ""
        wanted = self._order(candidate, gpus[0])
        if wanted is None:
            return "build it anew with `headrace build`"
        if not wanted.model.exists():
            return f"it cannot be rebuilt: {wanted.model.name} is missing"
        if self._rebuilt is None:
            return f"it can be rebuilt from {wanted.model.name}"
        if (found := self._rebuilt.find(wanted)) is not None:
            merit = f"rebuilt on this machine from {found.model}: {found.likeness}"
            return Candidate(found.path, found.plan, merit, Runner.TENSORRT, is_rebuilt=True)
        if failure := self._rebuilt.failure(wanted):
            return f"it could not be rebuilt: {failure}"
        if wanted not in self.orders:
            self.orders.append(wanted)
        return f"it will be rebuilt from {wanted.model.name}"

    @staticmethod
    def _is_mismatch(error: EngineError) -> bool:
        from headrace_engines.runtime.tensorrt.plan_file import PlanMismatch

        return isinstance(error, PlanMismatch)

    def _order(self, candidate: Candidate, gpu: int) -> PlanOrder | None:
        from headrace_engines.plan_order import order

        library = self._machine.library(candidate.file)
        if library is None or candidate.described is None or self._manifest is None:
            return None
        facts = self._machine.gpus()[gpu]
        return order(self._folder, self._manifest, candidate.described, library, facts)
