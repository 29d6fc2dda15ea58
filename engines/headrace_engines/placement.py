"""Where the instances of a model are to run, and where they can, with the GPUs that there are."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Self

from headrace_engines.errors import DeclarationError, Difference
from headrace_engines.machine import Machine
from headrace_engines.runtime.cuda.driver import no_such_gpu


class Kind(enum.Enum):
    """What instances run on."""

    AUTO = "auto"
    """GPUs where there are some that can, else the CPU."""
    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Group:
    """`count` instances on the CPU, or on each of `gpus`; without any named, on every GPU that there is."""

    count: int = 1
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """What was said of a model's instances: all of them run on GPUs, or all on the CPU."""

    kind: Kind = Kind.AUTO
    groups: tuple[Group, ...] = (Group(),)

    @property
    def on_cpu(self) -> int:
        """How many instances there are if they run on the CPU."""
        return sum(group.count for group in self.groups)

    def on_gpus(self, there: Collection[int], why_none: str) -> Mapping[int, int]:
        """Return how many instances run on each GPU, in the order of the GPUs; none: they run on the CPU.

        `there` are the GPUs of this machine; `why_none` says why there is none. Raises DeclarationError
        where GPUs were asked for that are not there.
        """
        if self.kind is Kind.CPU:
            return {}
        missing = self.missing(there, why_none)
        if missing and self.kind is Kind.GPU:
            raise DeclarationError(missing)
        if missing:
            return {}
        counts = dict.fromkeys(sorted(there), 0)
        for group in self.groups:
            for gpu in group.gpus or counts:
                counts[gpu] += group.count
        return {gpu: count for gpu, count in counts.items() if count}

    def missing(self, there: Collection[int], why_none: str) -> list[Difference]:
        """Return what is in the way of running on GPUs."""
        if not there:
            text = f"there is no GPU to run on ({why_none}); mend that, or write KIND_CPU or KIND_AUTO"
            return [Difference("instance_group[0].kind", text)]
        return [
            Difference(f"instance_group[{position}].gpus", no_such_gpu(gpu, there))
            for position, group in enumerate(self.groups)
            for gpu in group.gpus
            if gpu not in there
        ]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a model may run on this machine; `counts` are the instances on each of `gpus`."""

    gpus: tuple[int, ...]
    counts: tuple[int, ...]
    on_cpu: int
    """Instances on the CPU, if it comes to that; 0 if it may not."""
    why_no_gpu: str
    """Why it may run on no GPU; "" where it may."""
    was_wished: bool = False
    """Whether it is the machine, and not the configuration, that keeps it from GPUs."""
    names_gpus: bool = False
    """Whether the configuration names GPUs."""

    @classmethod
    def of(cls, placement: Placement, machine: Machine) -> Self:
        """Return the places that this machine has. Raises DeclarationError without a GPU that is needed."""
        if placement.kind is Kind.CPU:
            return cls((), (), placement.on_cpu, "the configuration says KIND_CPU")
        there = machine.gpus()
        why_none = "" if there else machine.why_no_gpu()
        counts = placement.on_gpus(there, why_none)
        why = "" if counts else "; ".join(map(str, placement.missing(there, why_none)))
        if not there:
            why = f"none was found ({why_none})"
        on_cpu = 0 if placement.kind is Kind.GPU else placement.on_cpu
        names_gpus = any(group.gpus for group in placement.groups)
        return cls(tuple(counts), tuple(counts.values()), on_cpu, why, bool(why), names_gpus)


ANYWHERE: Final = Placement()
