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
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from headrace_engines.errors import MemoryExhausted

_LOOK_SECONDS: Final = 0.25
"""Between two looks at what is held: in so short a time no process fills what is kept in reserve."""
_RESERVED_SHARE: Final = 1 / 8
"""Of the memory that is available, for everybody else."""
_FEWEST_BYTES: Final = 1 << 29
"""A framework alone takes about as much."""
_SESSION_AT: Final = 3
"""The field of /proc/PID/stat, counted from the one after the name, with the session of a process."""
_HELD: Final = ("RssAnon", "RssShmem")
"""Pages of files are not among it: the system takes them back at need."""

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Accounting:
    """How a version of cgroups tells of memory; of `cached`, in `memory.stat`, the system takes back."""

    folder: str
    limit: str
    used: str
    cached: tuple[str, ...]


_BY_CONTROLLER: Final = {
    "": _Accounting("", "memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": _Accounting(
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}
"""Of version 2, and of version 1, by how the process's own list of cgroups names them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may take: `seconds` for each answer, and `memory_bytes` with all that it starts.

    Without `memory_bytes` that is what the machine has to spare when it is asked.
    """

    seconds: float = 1800.0
    memory_bytes: int | None = None

    def settled(self) -> Limits:
        """Return limits with the memory of this moment; MemoryExhausted if that is too little to begin."""
        if self.memory_bytes is not None:
            return self
        spare = spare_bytes()
        if spare < _FEWEST_BYTES:
            raise MemoryExhausted(
                f"{spare >> 20} MiB of memory are to spare here, and opening a model takes "
                f"{_FEWEST_BYTES >> 20} MiB or more: end other programs, give the container more, or say "
                "with --import-memory-gib what it may take"
            )
        return replace(self, memory_bytes=spare)


class Watch:
    """Ends a process, by `end`, that takes more than it may while the context lasts, which may come again."""

    def __init__(self, session: int, limits: Limits, end: Callable[[], None]) -> None:
        """`session` is the process that is asked, which leads it; the limits are settled."""
        self.complaint = ""
        """What was taken too much of; "" if nothing was."""
        self._session = session
        self._limits = limits
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
        most = self._limits.memory_bytes
        if most is not None and held_bytes(self._session) > most:
            return (
                f"it took more than {most / 2**30:.3g} GiB of memory: if the machine has more, "
                "allow it with --import-memory-gib"
            )
        return ""


def spare_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return what the machine, or the container, has of memory for one process more, less a reserve."""
    try:
        available = dict(_sizes(proc / "meminfo"))["MemAvailable"]
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder, accounting in _accounts(proc, cgroups):
        with suppress(OSError, ValueError):  # version 2 says "max" where there is no limit
            available = min(available, _left(folder, accounting))
    return int(max(available, 0) * (1 - _RESERVED_SHARE))


def _accounts(proc: Path, cgroups: Path) -> Iterator[tuple[Path, _Accounting]]:
    """Yield the cgroups whose limits hold for this process: its own, and those above it.

    Where a container sees the cgroups from inside its own, of the path only the root may be there.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for accounting in filter(None, map(_BY_CONTROLLER.get, controllers.split(","))):
            root = cgroups / accounting.folder
            own = Path(path.lstrip("/"))
            yield from ((root / folder, accounting) for folder in (own, *own.parents))


def _left(folder: Path, accounting: _Accounting) -> int:
    """Return what a cgroup may still take; pages of files make room at need."""
    limit, used = (int((folder / name).read_text()) for name in (accounting.limit, accounting.used))
    told = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return limit - used + sum(int(value) for name, value in told if name in accounting.cached)


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
