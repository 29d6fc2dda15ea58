"""The batch sizes that an engine on a GPU is made ready for.

A batch runs at the next size that holds it, the rest being padding. So sizes are dense where a larger batch
takes longer, and sparse where it takes as long: a GPU that is not full yet computes padding for nothing. The
largest is made ready first, which has to be there; the others come as far as there is memory for them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.lifetimes import let_go
from headrace_engines.runtime.signature import best_batch_sizes

T = TypeVar("T")

_log = logging.getLogger(__name__)

MOST_SIZES: Final = 24
"""Each takes time to load, and some memory for each slot."""
_WORTH: Final = 1.1
"""How much longer than the size before one may take, with none in between."""
_FINEST: Final = 4
"""No gap is halved that is less than this share of the size below it."""


def chosen_sizes(
    least: int,
    most: int,
    milliseconds: Callable[[int], float],
    has_room: Callable[[], bool] = lambda: True,
) -> tuple[int, ...]:
    """Return the sizes from `least` to `most`, ascending, for how long each takes by measurement.

    They are the powers of two, and between two that differ by more than 10 % what halves the gap, the
    widest first. Each size is measured once, the largest first, as long as there is room; raises
    MemoryExhausted if there is none for that.
    """
    first = {size for size in best_batch_sizes(most) if size > least} | {least}
    took = fitting_sizes(first, milliseconds, has_room)
    while len(first) <= len(took) < MOST_SIZES and (middle := _wanted(took)):
        more = fitting_sizes([middle], milliseconds, has_room, is_needed=False)
        if not more:
            break
        took |= more
    return tuple(sorted(took))


def fitting_sizes(
    sizes: Iterable[int],
    ready: Callable[[int], T],
    has_room: Callable[[], bool] = lambda: True,
    *,
    is_needed: bool = True,
) -> dict[int, T]:
    """Make sizes ready, the largest first, as far as there is memory for them; return what each gave.

    Raises MemoryExhausted if there is none for the largest, which `is_needed`.
    """
    made: dict[int, T] = {}
    for size in sorted(sizes, reverse=True):
        may_fail = bool(made) or not is_needed
        if may_fail and not has_room():
            _log.info(
                "batches of %d rows get no size of their own: contexts have their share of memory", size
            )
            break
        try:
            made[size] = ready(size)
        except MemoryExhausted as error:
            if not may_fail:
                raise
            let_go(error)
            _log.warning("batches of %d rows get no size of their own: %s", size, error)
            break
    return made


def _wanted(took: Mapping[int, float]) -> int:
    """Return the size that would save the most padding; 0 if none is worth its memory."""
    costs = [
        (took[above] / max(took[below], 1e-9), above, below)
        for below, above in itertools.pairwise(sorted(took))
        if above - below > 1 and (above - below) * _FINEST >= below
    ]
    cost, above, below = max(costs, default=(0.0, 0, 0))
    return (below + above) // 2 if cost > _WORTH else 0
