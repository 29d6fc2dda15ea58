"""How long each part may take, so that all ends in time and nothing that hangs costs what follows.

Each kind of parts has its share of the whole time. What it does not need goes to those after it, and what
they were promised it cannot take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MOST: Final = 1 / 3
"""What one part may take of its kind's time, where that is more than its fair share."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Parts that measure the same of several things; `seconds` is its share, beside those of other kinds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Part:
    """One process: the module whose `measure` it calls, for which subject, and how long it may take."""

    name: str
    kind: Kind
    module: str
    limit_seconds: float
    subject: str = ""


class Budget:
    """The time for some parts, which are done in their order."""

    def __init__(self, parts: Sequence[Part], seconds: float) -> None:
        """`seconds` are for all of them together, in the proportion of their kinds' shares."""
        shares = sum(kind.seconds for kind in {part.kind for part in parts})
        self._scale = seconds / shares if shares else 0.0

    def limit(self, part: Part, after: Sequence[Part], left_seconds: float) -> float:
        """Return how long a part may take of what is left, `after` being the parts that follow it."""
        promised = sum(kind.seconds for kind in {one.kind for one in after} - {part.kind}) * self._scale
        own = left_seconds - promised
        alike = 1 + sum(one.kind == part.kind for one in after)
        return min(part.limit_seconds, max(own / alike, own * _MOST))
