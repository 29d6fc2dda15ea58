"""What a process and all that it started use, out of /proc (Linux)."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PARENT, _USER_TICKS, _SYSTEM_TICKS = 1, 11, 12
"""Places in /proc/PID/stat, counted from what follows the command's closing parenthesis."""


def tree(root: int) -> list[int]:
    """Return the process and its descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[_PARENT])].append(int(entry.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def cpu_seconds(root: int) -> float:
    """Return the CPU time that the tree has used so far, to a hundredth of a second."""
    stats = [fields for pid in tree(root) if (fields := _stat(pid))]
    ticks = sum(int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS]) for fields in stats)
    return ticks / _TICKS_PER_SECOND


def rss_bytes(root: int) -> int:
    """Return the resident memory of the tree; pages that processes share count in each."""
    return sum(_rss_bytes(pid) for pid in tree(root))


def _stat(pid: int) -> list[str]:
    """Return the fields after the command's name; none if the process has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _rss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
