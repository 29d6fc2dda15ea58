"""How large a batch may be that is quick: handing it to another thread would cost more than computing it."""

from __future__ import annotations

from typing import Final

_QUICK_NS: Final = 200_000
"""Waking another thread and being woken by it costs half as much, and what has lain idle computes slowly."""
_QUICK_NS_A_ROW: Final = 4_000
"""Where rows come one by one, reading and answering each takes several times as long."""
_LONG: Final = 5
"""Whoever computes so many times as long where others wait is noticed by them."""
_ENOUGH: Final = 16
_MOST_NEEDED: Final = 1 << 16
"""One long batch among so many does no harm; a number that doubles for ever takes memory and time."""
_FORGIVEN: Final = 64


class _Size:
    """Batches of about one size: how many in succession were quick, and how many have to be."""

    __slots__ = ("needed", "streak")

    def __init__(self) -> None:
        self.streak = 0
        self.needed = _ENOUGH

    @property
    def is_quick(self) -> bool:
        return self.streak >= self.needed

    def took(self, busy_ns: int, quick_ns: int) -> None:
        if busy_ns <= quick_ns:
            self.streak += 1
            if self.needed > _ENOUGH and self.streak >= _FORGIVEN * self.needed:
                self.needed //= 2
            return
        self.streak = 0
        if busy_ns > _LONG * quick_ns:
            self.needed = min(2 * self.needed, _MOST_NEEDED)


class Pace:
    """Follows how long batches keep the thread busy that computes them, for each power of two of rows.

    It is for rows of one shape, whose number says what a batch costs: as much as an earlier one. Where it
    does not, because an operator repeats itself as often as its input says, each long batch doubles how many
    quick ones are to come in succession before the next is trusted.
    """

    def __init__(self) -> None:
        self.quick_rows = 0
        """Batches of up to so many rows are quick."""
        self._sizes: dict[int, _Size] = {}

    def took(self, rows: int, busy_ns: int) -> None:
        """Take in one execution."""
        bits = rows.bit_length()
        size = self._sizes.get(bits)
        if size is None:
            size = self._sizes[bits] = _Size()
        before = size.is_quick, size.needed
        size.took(busy_ns, _QUICK_NS + rows * _QUICK_NS_A_ROW)
        if (size.is_quick, size.needed) != before:
            self.quick_rows = self._quick_rows()

    def _quick_rows(self) -> int:
        quick_bits = 0
        for bits, size in sorted(self._sizes.items()):
            if size.is_quick:
                quick_bits = bits
            elif size.needed > _ENOUGH:  # it has been long
                break
        return (1 << quick_bits) - 1
