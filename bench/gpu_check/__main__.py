"""The command `python -m bench.gpu_check`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.gpu_check import report, stages
from bench.gpu_check.budget import Part
from bench.gpu_check.cases import Case, cases
from bench.gpu_check.parts import Phase, machine, parts
from bench.gpu_check.record import Found
from bench.gpu_check.report import Document
from bench.gpu_check.runner import Outcome, run_all
from bench.gpu_check.setting import BATCHES, Setting

_GOOD, _FAILED, _MISSING, _INTERRUPTED = 0, 1, 2, 130
_BUDGET_SECONDS: Final = 450.0
_FIRST: Final = "first.json"


class MissingError(Exception):
    """Something without which nothing can be checked; the text says what, and how to get it."""


class Check:
    """One run: what was found so far, written down after each part."""

    def __init__(self, setting: Setting, out: Path, phase: Phase, before: Sequence[Document]) -> None:
        """`before` is what an earlier phase found."""
        self._setting = setting
        self._out = out
        self._phase = phase
        self._started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.found: list[Document] = list(before)

    def run(self, todo: Sequence[Part], budget_seconds: float) -> None:
        """Run the parts. Raises MissingError as soon as it is known that there is no GPU."""
        try:
            run_all(todo, self._setting, budget_seconds, self._tell)
        except MissingError as error:
            self._leave_out(todo, str(error))
            raise
        finally:
            self.save(is_complete=False)
        self.save(is_complete=True)

    def save(self, *, is_complete: bool) -> None:
        """Write the report as it is, and what the second phase is to begin with."""
        report.save(report.document(self.found, started=self._started, is_complete=is_complete), self._out)
        if self._phase is Phase.FIRST:
            self._setting.work.mkdir(parents=True, exist_ok=True)
            (self._setting.work / _FIRST).write_text(json.dumps(self.found))

    def _tell(self, outcome: Outcome) -> None:
        self.found.append(outcome.document())
        self.save(is_complete=False)
        lines = report.problems(self.found[-1:])
        state = lines[0].partition(": ")[2] if lines else "ok"
        print(f"[{outcome.seconds:5.1f} s] {outcome.part}: {state[:150]}", flush=True)
        if outcome.part == machine().name and not outcome.found.facts.get("gpus"):
            raise MissingError(f"no GPU can be used: {outcome.found.facts.get('why none') or state}")

    def _leave_out(self, todo: Sequence[Part], why: str) -> None:
        tried = {one["part"] for one in self.found}
        for part in todo:
            if part.name not in tried:
                self.found.append(Outcome(part.name, Found(), 0.0, f"not run: {why}").document())


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print what was found, and return the exit code."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _checked(given)
    except MissingError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return _MISSING
    except KeyboardInterrupt:
        print("stopped; what was measured is kept", flush=True)
        return _INTERRUPTED


def _checked(given: argparse.Namespace) -> int:
    phase = Phase(given.phase)
    setting = Setting(given.cases.absolute(), given.work.absolute(), tuple(given.batches), given.seconds)
    tried = _cases(setting.cases)
    before = _before(setting.work / _FIRST) if phase is Phase.SECOND else []
    todo = [part for part in parts(tried, phase) if _is_chosen(part, given.only)]
    if phase is Phase.SECOND:
        todo.insert(0, machine())  # which has by now what could not be carried with the first phase
    stages.forget(setting)
    check = Check(setting, given.out, phase, before)
    try:
        check.run(todo, given.budget_seconds)
    finally:
        print((given.out / report.TEXT_NAME).read_text(), flush=True)
    return _FAILED if report.problems(check.found) else _GOOD


def _is_chosen(part: Part, only: str) -> bool:
    return part == machine() or any(words in part.name for words in only.split(","))


def _cases(repository: Path) -> list[Case]:
    found = list(cases(repository)) if repository.is_dir() else []
    if not found:
        raise MissingError(f"no models in {repository}: `make gpu-bundle` makes them")
    return found


def _before(file: Path) -> list[Document]:
    """Return what the first phase measured on this machine; nothing if that was another one, or no GPU."""
    found: list[Document] = json.loads(file.read_text()) if file.exists() else []
    if not any(part["facts"].get("gpus") for part in found):
        return []
    return [part for part in found if part["part"] != machine().name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_check",
        description="Prove on a GPU that plans answer as ONNX Runtime does, and measure engine, core and "
        "server. The exit code is 0 if all was measured, 1 if something failed, 2 if something is missing.",
    )
    add = parser.add_argument
    add("--cases", type=Path, default=Path(".gpu/cases"), help="models, as `make gpu-bundle` makes them")
    add("--out", type=Path, default=Path(".gpu/results"), help="folder for gpu-check.json and gpu-check.txt")
    add("--work", type=Path, default=Path(".gpu/run"), help="folder for what the parts make")
    add(
        "--phase", choices=[*Phase], default=Phase.ALL, help="first: what needs no TensorRT; second: the rest"
    )
    add("--only", default="", help="parts with one of these in their names, as engine,mlp-large")
    add("--budget-seconds", type=float, default=_BUDGET_SECONDS, help="for all parts together; default: 450")
    add("--batches", type=_integers, default=BATCHES, help="default: 1,2,4 and so on to 256")
    add("--seconds", type=float, default=0.15, help="for each figure; default: 0.15")
    return parser


def _integers(text: str) -> list[int]:
    return sorted({int(item) for item in text.split(",")})


if __name__ == "__main__":
    sys.exit(main())
