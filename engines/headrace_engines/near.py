"""Which of the known names was probably meant: for the hints of errors about a name that is not known."""

from __future__ import annotations

import difflib
from bisect import bisect
from collections.abc import Iterable
from itertools import islice
from typing import Final

_MOST_CHARACTERS: Final = 64
"""A comparison takes time that grows with the names' lengths, and a caller's may be of any."""
_MOST_KNOWN: Final = 1000
_NEIGHBOURS: Final = 4
"""Names that are compared on either side, in each of the two orders: each takes some thirty microseconds."""


def near(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return up to so many names that are like this one, the most like first; takes a millisecond at most.

    Where many names are known, only those are compared that stand beside it in the alphabet, read forwards
    or backwards: a slip leaves the beginning or the end as it was.
    """
    name = name[:_MOST_CHARACTERS]
    likely = {other[:_MOST_CHARACTERS]: other for other in islice(known, _MOST_KNOWN)}
    if len(likely) > 4 * _NEIGHBOURS:
        forwards = _beside(name, likely)
        backwards = _beside(name[::-1], (other[::-1] for other in likely))
        likely = {one: likely[one] for one in (*forwards, *(other[::-1] for other in backwards))}
    return [likely[one] for one in difflib.get_close_matches(name, likely, n=most)]


def _beside(name: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    at = bisect(ordered, name)
    return ordered[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
