"""Which file of a version folder serves on this machine, and why.

Candidates are tried best first: where there are GPUs a plan that fits them, then ONNX Runtime there; else
what `headrace build` compressed for the CPU and found as good and faster, then the model as it was trained.
One that is damaged, does not match its manifest, or whose rows would change each other's answers gives way
to the next; a version none of whose artefacts keeps rows apart is served one row at a time. What a person
declared about the model is checked against the file, and may name the file. A program (`model.py`) is
executed only where that is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace_engines import manifest, memory
from headrace_engines.candidates import PLAN, is_plan, program
from headrace_engines.choice import Choice
from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.errors import DeclarationError, Difference, UnsupportedModelError
from headrace_engines.loaded import Loaded
from headrace_engines.machine import THIS_MACHINE, Machine
from headrace_engines.memory import Held
from headrace_engines.opening import Opener
from headrace_engines.placement import ANYWHERE, Kind, Placement, Places
from headrace_engines.replacements import Replacements

if TYPE_CHECKING:
    from headrace_engines.rebuilt_plans import RebuiltPlans

__all__ = ["Loaded", "load"]

_CPU_ALONE: Final = Placement(Kind.CPU)


def load(
    folder: Path,
    *,
    max_batch_size: int = 64,
    declaration: Declaration = NOTHING_DECLARED,
    allow_python: bool = False,
    placement: Placement = ANYWHERE,
    machine: Machine = THIS_MACHINE,
    rebuilt: RebuiltPlans | None = None,
) -> Loaded:
    """Load the best artefact that this machine can run, as it was declared.

    `max_batch_size` stands where none was declared. `rebuilt` are the plans that this machine has built
    itself. Takes as long as reading the file and some thirty executions of small batches; a program takes as
    long as it likes. Raises ModelFileError saying what was found and what was expected if nothing can be
    served, DeclarationError where that is because the model, or the machine, is not what was declared,
    UnsupportedModelError for a program that may not be executed and a plan where there is no GPU.
    """
    rows = declaration.max_batch_size or max_batch_size
    if file := program(folder, declaration):
        if not allow_python:
            raise UnsupportedModelError(f"{file}: Python models are executed only with --allow-python-models")
        return _loaded_program(folder, file, rows, declaration, placement)
    if declaration.is_decoupled:
        text = "only a Python model answers a request other than once"
        raise DeclarationError([Difference("model_transaction_policy.decoupled", text)])
    try:
        places = Places.of(placement, machine)
    except DeclarationError as missing:
        if is_plan(declaration):
            raise
        raise DeclarationError([*missing.differences, *_further(folder, rows, declaration)]) from missing
    if is_plan(declaration) and places.why_no_gpu:
        raise UnsupportedModelError(f"{declaration.file or PLAN}: needs a GPU: {places.why_no_gpu}")
    described = manifest.read(folder)
    opener = Opener(described, declaration, machine)
    version = Choice(folder, opener, places, Replacements(folder, described, machine, rebuilt))
    chosen = version.first_that_batches(rows) or version.first_alone()
    if chosen is None:
        raise version.failure()
    version.warn(chosen)
    return chosen


def _further(folder: Path, rows: int, declaration: Declaration) -> tuple[Difference, ...]:
    """Return what else is not as declared where a GPU is missing, so that all is told at once."""
    try:
        load(folder, max_batch_size=rows, declaration=declaration, placement=_CPU_ALONE).close()
    except DeclarationError as error:
        return error.differences
    return ()


def _loaded_program(
    folder: Path, file: str, rows: int, declaration: Declaration, placement: Placement
) -> Loaded:
    from headrace_engines.runtime.python import PythonEngine  # most servers execute no programs

    engine = PythonEngine(folder / file, declaration, max_batch_size=rows, version=folder.name)
    held = Held(memory.files_bytes(folder, ()))
    return Loaded(engine, file, (f"{file}: chosen: a program",), held, counts=(placement.on_cpu,))
