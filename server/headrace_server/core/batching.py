"""Decides how much of what waits makes the next batch, and whether to wait for more.

The rules are those of the protocol's `dynamic_batching`: a batch of a preferred size is executed at once,
one that could still grow waits until its oldest request has waited for the longest delay. Besides, nobody's
deadline is spent on waiting, and requests of a high priority do not pay for a batch that others make larger.
Without a word from the model's owner none of this is asked: whatever waits is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.settings import ModelSettings


class Decision(NamedTuple):
    """Execute so many of the requests; none, if the next question makes sense only later."""

    requests: int
    again_at: float = NO_DEADLINE
    """When waiting is over, on the monotonic clock in seconds."""
    enough_rows: int = 0
    """Fewer rows than these are no reason to ask before."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How one model's batches are to be sized; sizes are in rows, ascending."""

    preferred: tuple[int, ...] = ()
    delay_seconds: float = 0.0
    steps: tuple[int, ...] = ()
    """Where there are levels of priority: the sizes up to which another row costs little."""
    has_levels: bool = False

    @classmethod
    def of(cls, settings: ModelSettings, best_sizes: tuple[int, ...]) -> Batching | None:
        """Return what the settings ask for, or None if that is nothing."""
        preferred = tuple(sorted(settings.preferred_batch_sizes))
        has_levels = settings.priority_levels > 1 and not settings.preserve_ordering
        if not preferred and not settings.max_queue_delay_us and not has_levels:
            return None
        return cls(preferred, settings.max_queue_delay_us * 1e-6, preferred or best_sizes, has_levels)

    def decide(self, works: Sequence[Work], max_rows: int, now: float, *, can_grow: bool) -> Decision:
        """Decide for `works`, which are the first that wait, in their order, and fit into one batch.

        `can_grow` says that there would be room for more, and that nothing else waits for the engine.
        """
        requests = self._that_fit_the_urgent(works, max_rows) if self.has_levels else len(works)
        rows = list(accumulate(work.rows for work in works[:requests]))
        due = min(work.queued_ns for work in works[:requests]) * 1e-9 + self.delay_seconds
        is_due = bool(self.delay_seconds) and now >= due
        if not is_due and (sized := self._of_preferred_size(rows)):
            return Decision(sized)
        largest = min(self.preferred[-1], max_rows) if self.preferred else max_rows
        is_full = requests < len(works) or not can_grow or rows[-1] >= largest
        if is_full or is_due or not self.delay_seconds or min(work.deadline for work in works) <= due:
            return Decision(requests)
        enough_rows = next((size for size in self.preferred if size > rows[-1]), max_rows)
        return Decision(0, due, min(enough_rows, max_rows))

    def _that_fit_the_urgent(self, works: Sequence[Work], max_rows: int) -> int:
        """Return how many requests fit the step that those of the highest level need."""
        urgent_rows = sum(work.rows for work in works if work.priority == works[0].priority)
        room = next((step for step in self.steps if step >= urgent_rows), max_rows)
        rows = accumulate(work.rows for work in works)
        return max(1, sum(total <= room for total in rows))

    def _of_preferred_size(self, rows: Sequence[int]) -> int:
        """Return how many requests make the largest preferred size, or come closest below the largest of all.

        0 if none do. `rows` are the sizes of a batch of one request, of two, and so on.
        """
        if not self.preferred:
            return 0
        for requests in range(len(rows), 0, -1):
            if rows[requests - 1] in self.preferred:
                return requests
        return sum(total < self.preferred[-1] for total in rows) if rows[-1] > self.preferred[-1] else 0
