"""How a plan is built: a description that stands in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_engines.documents import Scalar


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """Everything that a person may choose about a plan.

    `batch_sizes`, ascending, are those that will be run; the last is the largest. `open_sizes` are the
    least, the usual and the largest of a dimension that requests choose. `optimization_level` is 0 to
    5: more takes longer. `tf32` lets FP32 matrices be multiplied in 19 bits, which their results show
    in the fourth digit. `workspace_bytes` bounds scratch memory; 0 leaves that to the library.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 32, 64)
    open_sizes: tuple[int, int, int] = (1, 128, 512)
    optimization_level: int = 3
    tf32: bool = True
    sparse_weights: bool = False
    workspace_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.batch_sizes or list(self.batch_sizes) != sorted({*self.batch_sizes}):
            raise ValueError(f"batch sizes {list(self.batch_sizes)}: expected ascending numbers, 1 or more")
        if self.batch_sizes[0] < 1:
            raise ValueError(f"batch size {self.batch_sizes[0]}: expected 1 or more")
        if not 0 < self.open_sizes[0] <= self.open_sizes[1] <= self.open_sizes[2]:
            raise ValueError(f"sizes {list(self.open_sizes)}: expected three ascending ones, 1 or more")
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization level {self.optimization_level}: expected 0 to 5")

    @property
    def described(self) -> Mapping[str, Scalar]:
        """The same as it stands in a manifest."""
        return {
            "batch_sizes": ",".join(map(str, self.batch_sizes)),
            "open_sizes": ",".join(map(str, self.open_sizes)),
            "optimization_level": self.optimization_level,
            "tf32": self.tf32,
            "sparse_weights": self.sparse_weights,
            "workspace_bytes": self.workspace_bytes,
        }


def batch_ranges(sizes: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return the least, the best and the largest batch of a profile for each size.

    Each profile is best at its own size, and takes the smaller ones that the one before does not.
    """
    starts = (1, *(size + 1 for size in sizes[:-1]))
    return [(start, size, size) for start, size in zip(starts, sizes, strict=True)]
