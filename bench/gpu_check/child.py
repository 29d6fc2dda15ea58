"""The process of one part: `python -m bench.gpu_check.child`, started by `runner` and by nobody else."""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import importlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

from bench.gpu_check.record import Record
from bench.gpu_check.setting import of_json

_SET_DEATH_SIGNAL: Final = 1
"""Of prctl, on Linux."""


def main() -> None:
    """Measure, and end without the libraries' own endings: what was measured stands."""
    parser = argparse.ArgumentParser(prog="bench.gpu_check.child", description=__doc__)
    parser.add_argument("--module", required=True, help="the part: a module with `measure`")
    parser.add_argument("--subject", default="", help="what of, for parts that are run for several things")
    parser.add_argument("--setting", required=True, help="JSON")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--limit-seconds", type=float, required=True)
    parser.add_argument("--parent", type=int, required=True, help="the process that this one ends with")
    given = parser.parse_args()
    _end_with(given.parent)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8.0f ms %(name)s: %(message)s")
    faulthandler.enable()
    # The log then tells where a part hung that is ended by force.
    faulthandler.dump_traceback_later(max(given.limit_seconds - 1, 0.5))
    record = Record(given.record)
    with record.step("measuring"):
        part = importlib.import_module(given.module)
        part.measure(of_json(given.setting), record, given.subject)
    record.end()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when the one that started it has ended, in whichever way."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


if __name__ == "__main__":
    main()
