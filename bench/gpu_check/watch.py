"""How busy a load keeps the GPU, from looks at it and at the server's own figures while the load is on.

Generators take a moment to start and come to their end with the last calls: what is seen then is of no load,
and is left out.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_log = logging.getLogger(__name__)

_INTERVAL_SECONDS: Final = 0.1
NVML_SECONDS: Final = 1.0
"""What NVML tells is the mean of up to this time, which is waited for after a load has begun."""


@dataclass(frozen=True, slots=True)
class Look:
    """One moment: rows answered and nanoseconds computed so far, by the server; `busy` 0 to 1, by NVML."""

    at: float
    rows: int
    computed_ns: int
    busy: float | None


@dataclass(frozen=True, slots=True)
class Busy:
    """What the looks under load say; None where there were not enough of them.

    `percent` is the median of NVML's `samples`; where NVML told nothing, it is `computing_percent`: the share
    of the time in which a batch was computed, by CUDA's events.
    """

    percent: float | None
    samples: int
    computing_percent: float | None


@contextlib.contextmanager
def looking(look: Callable[[], Look]) -> Iterator[list[Look]]:
    """Yield the looks: one before the block, one after it, and others over and over meanwhile."""
    looks = [look()]
    done = threading.Event()

    def repeat() -> None:
        try:
            while not done.wait(_INTERVAL_SECONDS):
                looks.append(look())
        except Exception:  # the load's own figures stand without this
            _log.exception("the load is watched no more")

    watcher = threading.Thread(target=repeat, daemon=True)
    watcher.start()
    try:
        yield looks
    finally:
        done.set()
        watcher.join()
    looks.append(look())


def busy(looks: Sequence[Look], call_rows: int, in_flight_rows: int, warm_up_seconds: float) -> Busy:
    """Judge the looks from a while after the load began until it was only waited for.

    The call that asks for an answer's size comes before the load; `in_flight_rows` are what is waited for.
    """
    before, after = looks[0].rows + call_rows, looks[-1].rows - in_flight_rows
    begun = next((look.at for look in looks if look.rows > before), None)
    if begun is None:
        return Busy(None, 0, None)
    under = [look for look in looks if look.at >= begun + warm_up_seconds and look.rows <= after]
    computing = _computing(under)
    told = [100 * look.busy for look in under if look.busy is not None]
    return Busy(statistics.median(told) if told else computing, len(told), computing)


def _computing(looks: Sequence[Look]) -> float | None:
    if len(looks) < 2:
        return None
    return (looks[-1].computed_ns - looks[0].computed_ns) / 1e7 / (looks[-1].at - looks[0].at)
