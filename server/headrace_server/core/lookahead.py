"""Decides when the next batch is taken while one is being computed: as late as it can be without a pause.

Taken at once, it would hold the one request that happened to come first, and all others would wait for the
batch after it. Taken so late that it is copied to the device just when the one before it has been computed,
it holds whatever has come by then. What batches take is learnt; until it is known, they are taken at once.
"""

from __future__ import annotations

from typing import Final

from headrace_engines.engine import DeviceTimes
from headrace_server.core.latency import BatchTimes

GUARD_SECONDS: Final = 0.00015
"""Waking a thread takes about half as long."""


def take_at(
    now: float, computed_at: float, waiting_rows: int, largest_rows: int, ahead_seconds: float
) -> float:
    """Return when to take the next batch; at once if that is `now`. Moments are seconds of one clock.

    `computed_at` is when the running batch should have been computed, `ahead_seconds` what assembling and
    copying the next one takes. A full batch has nothing to wait for.
    """
    if waiting_rows >= largest_rows:
        return now
    return max(now, computed_at - ahead_seconds - GUARD_SECONDS)


class Lookahead:
    """Learns what the batches of one engine take, and says when to take the next. Has no clock of its own."""

    def __init__(self, largest_rows: int) -> None:
        self._largest_rows = largest_rows
        self._compute = BatchTimes()
        self._ahead = BatchTimes()
        self._computed_ns = 0
        """When the device had computed the batch that landed last."""

    def landed(
        self, rows: int, begun_ns: int, started_ns: int, landed_ns: int, times: DeviceTimes | None
    ) -> None:
        """Learn from a batch: when it was taken, was handed to the device, and had come back."""
        copy_in_ns = copy_out_ns = 0
        if times is not None:
            copy_in_ns, copy_out_ns = times.copy_in_ns, times.copy_out_ns
        computing_ns = max(started_ns + copy_in_ns, self._computed_ns)
        compute_ns = max(0, landed_ns - computing_ns) if times is None else times.compute_ns
        self._computed_ns = min(computing_ns + compute_ns, landed_ns - copy_out_ns)
        self._compute.record(rows, compute_ns * 1e-9)
        self._ahead.record(rows, (started_ns - begun_ns + copy_in_ns) * 1e-9)

    def take_at(self, now: float, waiting_rows: int, running_rows: int, started_ns: int) -> float:
        """Return when to take the next batch while one of so many rows, handed over then, is computed."""
        compute_seconds = self._compute.least_seconds(running_rows)
        if compute_seconds is None:
            return now
        computed_at = max(started_ns, self._computed_ns) * 1e-9 + compute_seconds
        # What comes next is about as large as what runs, or larger already.
        rows = min(max(waiting_rows, running_rows), self._largest_rows)
        return take_at(now, computed_at, waiting_rows, self._largest_rows, self._ahead.most_seconds(rows))
