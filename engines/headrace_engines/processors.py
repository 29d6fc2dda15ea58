"""How many processors this process may use, which a container or a scheduler may have limited."""

from __future__ import annotations

import os


def usable() -> int:
    """Return their number; that of the machine where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
