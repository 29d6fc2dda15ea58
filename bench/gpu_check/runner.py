"""Runs parts, each in a process of its own, and goes on whatever becomes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.gpu_check import record
from bench.gpu_check.budget import Budget, Part
from bench.gpu_check.record import Found
from bench.gpu_check.setting import Setting
from bench.load import ROOT

_LEAST_SECONDS: Final = 3.0
"""A part that has less than this left is not begun."""
_KILL_SECONDS: Final = 5.0
_LOG_BYTES: Final = 3000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a part: `fate` tells how its process ended, and is "" where it came to its end."""

    part: str
    found: Found
    seconds: float
    fate: str = ""
    log: str = ""
    """The end of what it wrote, where something went wrong."""

    @property
    def is_good(self) -> bool:
        """Whether everything was measured."""
        return not self.fate and not self.found.failures

    def document(self) -> dict[str, Any]:
        """Return the outcome for a JSON document."""
        return {
            "part": self.part,
            "seconds": round(self.seconds, 1),
            "fate": self.fate,
            "failures": [{"step": one.step, "error": one.error} for one in self.found.failures],
            "facts": self.found.facts,
            "tables": self.found.tables,
            "log": self.log,
        }


def run_all(
    parts: Sequence[Part], setting: Setting, budget_seconds: float, tell: Callable[[Outcome], None]
) -> None:
    """Run one part after the other and tell of each.

    What its kind's time does not hold is tried in the end, in what the others have left.
    """
    ends_at = time.monotonic() + budget_seconds
    put_off = _run_in_turn(parts, setting, ends_at, tell)
    for part in _run_in_turn(put_off, setting, ends_at, tell):
        tell(Outcome(part.name, Found(), 0.0, "skipped: no time was left"))


def _run_in_turn(
    parts: Sequence[Part], setting: Setting, ends_at: float, tell: Callable[[Outcome], None]
) -> list[Part]:
    """Run what there is time for, and return the rest."""
    budget = Budget(parts, ends_at - time.monotonic())
    rest = []
    for number, part in enumerate(parts, 1):
        limit = budget.limit(part, parts[number:], ends_at - time.monotonic())
        if limit < _LEAST_SECONDS:
            rest.append(part)
        else:
            tell(run(part, setting, limit))
    return rest


def run(part: Part, setting: Setting, limit_seconds: float) -> Outcome:
    """Run one part; it is killed, with all that it started, after `limit_seconds`."""
    setting.work.mkdir(parents=True, exist_ok=True)
    written = setting.work / f"{part.name.replace(' ', '-').replace('/', '-')}.jsonl"
    log = written.with_suffix(".log")
    written.unlink(missing_ok=True)
    begun = time.monotonic()
    timed = dataclasses.replace(setting, ends_at=begun + limit_seconds)
    command = [*setting.python, "-m", "bench.gpu_check.child", "--module", part.module]
    command += ["--subject", part.subject, "--setting", timed.to_json(), "--record", str(written)]
    command += ["--limit-seconds", str(limit_seconds), "--parent", str(os.getpid())]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        fate = _fate(process, limit_seconds)
    found = record.read(written)
    if fate and found.unfinished:
        fate += f" in {found.unfinished[-1]!r}"
    said = _tail(log) if fate or found.failures else ""
    return Outcome(part.name, found, time.monotonic() - begun, fate, said)


def _fate(process: subprocess.Popen[bytes], limit_seconds: float) -> str:
    """Wait for the process; return how it ended, "" if well."""
    try:
        code = process.wait(limit_seconds)
    except subprocess.TimeoutExpired:
        return f"over its {limit_seconds:.0f} s{'' if _kill(process) else ', and could not be killed'}"
    except BaseException:
        _kill(process)
        raise
    _kill_group(process.pid)
    if code < 0:
        return f"ended by {_signal_name(-code)}"
    return f"ended with exit code {code}" if code else ""


def _kill(process: subprocess.Popen[bytes]) -> bool:
    """End the process; one that waits for a driver may stay, and is left behind."""
    _kill_group(process.pid)
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_group(leader: int) -> None:
    """End what is left of a process and of all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")
