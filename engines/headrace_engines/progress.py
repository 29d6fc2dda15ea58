"""How whoever waits for long work is told how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told what the work is doing."""

    def __call__(self, step: str, fraction: float) -> None:
        """`step` begins, in words; `fraction` of the whole, 0 to 1, is done."""
