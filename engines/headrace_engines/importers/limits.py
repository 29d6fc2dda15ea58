"""How much the process that opens a source may take: time for an answer, and memory.

A file that is a program may run, or allocate, without end, and so may a converter that met its match. Memory
is what the process and all that it has started hold, since frameworks reserve many times more addresses than
they ever touch; these share a session, which none of them may leave.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_LOOK_SECONDS: Final = 0.25
"""Between two looks at what is held: in so short a time no process fills what is kept in reserve."""
_RESERVED_SHARE: Final = 1 / 8
"""Of the machine's memory, for everybody else."""
_SESSION_AT: Final = 3
"""The field of /proc/PID/stat, counted from the one after the name, with the session of a process."""
_HELD: Final = ("RssAnon", "RssShmem")
"""Pages of files are not among it: the system takes them back at need."""

_PROC: Final = Path("/proc")
_CONTAINER_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may take: `seconds` for each answer, and `memory_bytes` with all that it starts.

    Without `memory_bytes` that is what the machine has to spare when it is asked.
    """

    seconds: float = 1800.0
    memory_bytes: int | None = None


class Watch:
    """Ends a process, by `end`, that takes more than it may while the context lasts, which may come again."""

    def __init__(self, session: int, limits: Limits, end: Callable[[], None]) -> None:
        """`session` is the process that is asked, which leads it."""
        self.complaint = ""
        """What was taken too much of; "" if nothing was."""
        self._session = session
        self._limits = limits
        self._most_bytes = spare_bytes() if limits.memory_bytes is None else limits.memory_bytes
        self._end = end
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._over.clear()
        self._thread = threading.Thread(target=self._look, name="limits", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _look(self) -> None:
        until = time.monotonic() + self._limits.seconds
        while not self._over.wait(min(_LOOK_SECONDS, max(until - time.monotonic(), 0.0))):
            self.complaint = self._too_much(until)
            if self.complaint:
                self._end()
                return

    def _too_much(self, until: float) -> str:
        if time.monotonic() >= until:
            return (
                f"it took longer than {self._limits.seconds:g} s: if it only is slow, allow more with "
                "--import-timeout-secs"
            )
        if held_bytes(self._session) > self._most_bytes:
            return (
                f"it took more than {self._most_bytes / 2**30:.3g} GiB of memory: if the machine has more, "
                "allow it with --import-memory-gib"
            )
        return ""


def spare_bytes(proc: Path = _PROC, container_limits: tuple[Path, ...] = _CONTAINER_LIMITS) -> int:
    """Return what the machine, or the container, has of memory for one process more, less a reserve."""
    try:
        sizes = dict(_sizes(proc / "meminfo"))
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = sizes["MemTotal"]
    for file in container_limits:
        with suppress(OSError, ValueError):  # v2 says "max" where there is no limit
            most = min(most, int(file.read_text()))
    return int(min(sizes["MemAvailable"], most) - _RESERVED_SHARE * most)


def held_bytes(session: int) -> int:
    """Return the memory of all processes of a session; 0 where the system does not tell."""
    return sum(_held(process) for process in _PROC.glob("[0-9]*") if _session(process) == session)


def _session(process: Path) -> int:
    try:
        fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[_SESSION_AT])
    except OSError:  # it has ended
        return 0


def _held(process: Path) -> int:
    try:
        return sum(size for name, size in _sizes(process / "status") if name in _HELD)
    except OSError:
        return 0


def _sizes(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the sizes in a file of /proc, in bytes, by their names."""
    for line in file.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, int(value.split()[0]) << 10
