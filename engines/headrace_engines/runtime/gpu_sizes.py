"""The batch sizes that an engine on a GPU is made ready for.

A batch runs at the next size that holds it, the rest being padding. So sizes are dense where a larger batch
takes longer, and sparse where it takes as long: a GPU that is not full yet computes padding for nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Final

from headrace_engines.runtime.signature import best_batch_sizes

MOST_SIZES: Final = 24
"""Each takes time to load, and some memory for each slot."""
_WORTH: Final = 1.1
"""How much longer than the size before one may take, with none in between."""
_FINEST: Final = 4
"""No gap is halved that is less than this share of the size below it."""


def chosen_sizes(least: int, most: int, milliseconds: Callable[[int], float]) -> tuple[int, ...]:
    """Return the sizes from `least` to `most`, ascending, for how long each takes by measurement.

    They are the powers of two, and between two that differ by more than 10 % what halves the gap, the
    widest first. Each size is measured once.
    """
    first = {size for size in best_batch_sizes(most) if size > least} | {least}
    took = {size: milliseconds(size) for size in sorted(first)}
    while len(took) < MOST_SIZES and (middle := _wanted(took)):
        took[middle] = milliseconds(middle)
    return tuple(sorted(took))


def _wanted(took: Mapping[int, float]) -> int:
    """Return the size that would save the most padding; 0 if none is worth its memory."""
    costs = [
        (took[above] / max(took[below], 1e-9), above, below)
        for below, above in itertools.pairwise(sorted(took))
        if above - below > 1 and (above - below) * _FINEST >= below
    ]
    cost, above, below = max(costs, default=(0.0, 0, 0))
    return (below + above) // 2 if cost > _WORTH else 0
