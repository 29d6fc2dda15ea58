"""How the process ends once everything is told and closed: in order, or at once where that would break it."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from headrace_engines.runtime import lifetimes


def end(exit_code: int, *, is_idle: bool) -> int:
    """Return the exit code for the interpreter to end with, or end the process with it at once.

    At once where a thread is still at work (`is_idle` says that none is): one that computes while the
    interpreter is taken down would abort the process, and one that is stuck in a GPU's driver would keep it.
    And where something outlives the context of the GPU that it was made in, which the libraries would free.
    """
    if is_idle and not lifetimes.has_kept():
        return exit_code
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it was closed
            stream.flush()
    os._exit(exit_code)
