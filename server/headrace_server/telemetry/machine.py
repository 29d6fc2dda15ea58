"""The load of the machine as a whole, read from /proc; the process's own figures are the library's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

_WITHOUT_GUESTS: Final = slice(1, 9)
"""The time of virtual machines is in the times before it as well."""
_IDLE_AND_WAITING: Final = slice(3, 5)


class Processors:
    """How much of their time the machine's processors work."""

    def __init__(self, proc: Path = PROC) -> None:
        self._stat = proc / "stat"
        self._busy, self._all = self._ticks()

    def utilization(self) -> float:
        """Return the share of time, 0 to 1, for which they have worked since the last call."""
        busy, everything = self._ticks()
        worked, passed = busy - self._busy, everything - self._all
        self._busy, self._all = busy, everything
        return max(0.0, min(1.0, worked / passed)) if passed > 0 else 0.0

    def _ticks(self) -> tuple[int, int]:
        with self._stat.open() as file:
            ticks = [int(field) for field in file.readline().split()[_WITHOUT_GUESTS]]
        return sum(ticks) - sum(ticks[_IDLE_AND_WAITING]), sum(ticks)


def memory_bytes(proc: Path = PROC) -> tuple[int, int]:
    """Return the main memory: all of it, and what is in use and could not be had without paging out."""
    with (proc / "meminfo").open() as file:
        kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in file)}
    total, available = kibibytes["MemTotal"] << 10, kibibytes["MemAvailable"] << 10
    return total, total - available
