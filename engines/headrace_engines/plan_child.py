"""The process in which a plan is rebuilt and judged: `python -m headrace_engines.plan_child PARENT`.

A builder that crashes, or takes all memory, must not take a server along. It is asked once, over its
standard input; over its standard output it tells how far it is, and then the outcome. It sees one GPU: the
one that the plan is for.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from headrace_engines import folders, plan_gate
from headrace_engines.declaration import NOTHING_DECLARED
from headrace_engines.errors import EngineError, FolderError, UnsupportedModelError
from headrace_engines.importers import messages, sandbox
from headrace_engines.machine import THIS_MACHINE, Machine
from headrace_engines.plan_gate import Likeness
from headrace_engines.plans.builder import build_plan
from headrace_engines.plans.nvidia import Library
from headrace_engines.plans.settings import PlanSettings
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_GPU: Final = 0
_NICENESS: Final = 10
_TOLD_SHARE: Final = 0.1
"""Of a step's work, between two messages about it."""


def main(machine: Machine = THIS_MACHINE) -> None:
    """Answer the one question that the parent asks."""
    sandbox.be_killed_first()
    with suppress(OSError):
        os.nice(_NICENESS)  # whoever serves goes first
    sandbox.end_with(int(sys.argv[1]))
    with messages.standard_streams() as (questions, answers):
        messages.send(answers, _outcome(messages.receive(questions), machine, _Teller(answers)))


class _Teller:
    """Tells the parent how far the builder is, not at each of its thousands of steps."""

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers
        self._told: tuple[str, float] = ("", 0.0)

    def __call__(self, step: str, fraction: float) -> None:
        told, share = self._told
        if step != told or fraction - share >= _TOLD_SHARE:
            self._told = (step, fraction)
            messages.send(self._answers, {"step": step, "fraction": fraction})


def _outcome(question: Mapping[str, Any], machine: Machine, tell: _Teller) -> Mapping[str, Any]:
    try:
        return {"likeness": asdict(_rebuilt(question, machine, tell))}
    except FolderError as error:
        return {"error": str(error), "is_of_folder": True}
    except EngineError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "there is not enough memory"}
    except Exception as error:  # whatever a library raises is told where it was asked for
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _rebuilt(question: Mapping[str, Any], machine: Machine, tell: _Teller) -> Likeness:
    """Build the plan, and return how like ONNX Runtime it answers. Raises EngineError if not enough."""
    model, into = Path(question["model"]), Path(question["into"])
    told = question["settings"]
    settings = PlanSettings(
        **{**told, "batch_sizes": tuple(told["batch_sizes"]), "open_sizes": tuple(told["open_sizes"])}
    )
    library = Library(**question["library"])
    caches = Path(question["caches"])
    with folders.writing(caches.parent):
        build_plan(model, into, library, settings, caches=caches, progress=tell)
    tell("comparing it with ONNX Runtime", 1.0)
    return _judged(model, into, settings, machine)


def _judged(model: Path, plan: Path, settings: PlanSettings, machine: Machine) -> Likeness:
    if _GPU not in machine.gpus():
        raise UnsupportedModelError(
            f"{plan.name}: it was built, and cannot be compared with ONNX Runtime without a GPU: "
            f"{machine.why_no_gpu()}"
        )
    rows = settings.batch_sizes[-1]
    with (
        closing(OnnxRuntimeEngine(model, max_batch_size=rows, fuses=False)) as reference,
        closing(
            machine.plan_engine(plan, _GPU, max_batch_size=rows, declaration=NOTHING_DECLARED, expected=None)
        ) as engine,
    ):
        return plan_gate.judge(plan.name, reference, engine)


if __name__ == "__main__":
    main()
