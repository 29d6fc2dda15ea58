"""How much of a GPU's memory the execution contexts of one instance may take.

Each has memory of its own, besides what all share for activations, and so has each CUDA graph. How much is
seen only when they are made.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.25
"""Of what is free when an instance begins to make them: other models need some, too."""


class Room:
    """What the contexts of one instance may take, and what those of its first slot have taken."""

    def __init__(self, most_bytes: int, slots: int) -> None:
        """They may take `most_bytes`; each of the slots is to get as many contexts as the first."""
        self._most_bytes = most_bytes
        self._slots = slots
        self._taken_bytes = 0
        self._sizes = 0

    def take(self, size_bytes: int) -> None:
        """Note what a batch size has taken in the first slot."""
        self._taken_bytes += size_bytes
        self._sizes += 1

    def has_next(self) -> bool:
        """Whether one more size, of the mean so far, would fit in all slots."""
        mean_bytes = self._taken_bytes / max(self._sizes, 1)
        return self._slots * (self._taken_bytes + mean_bytes) <= self._most_bytes
