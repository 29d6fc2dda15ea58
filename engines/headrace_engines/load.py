"""Which file of a version folder serves on this machine, and why.

Candidates are tried best first: where there are GPUs a plan that fits them, then ONNX Runtime there; else
what `headrace build` compressed for the CPU and found as good and faster, then the model as it was trained.
One that is damaged, does not match its manifest, or whose rows would change each other's answers gives way
to the next; a version none of whose artefacts keeps rows apart is served one row at a time. What a person
declared about the model is checked against the file, and may name the file. A program (`model.py`) is
executed only where that is allowed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_engines import manifest, memory
from headrace_engines.candidates import is_plan, plan_names, program
from headrace_engines.choice import Choice
from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.errors import (
    DeclarationError,
    Difference,
    EngineError,
    ModelFileError,
    UnsupportedModelError,
)
from headrace_engines.loaded import Loaded
from headrace_engines.machine import THIS_MACHINE, Machine
from headrace_engines.memory import Held
from headrace_engines.opening import Opener
from headrace_engines.placement import ANYWHERE, Placement, Places
from headrace_engines.replacements import Replacements

if TYPE_CHECKING:
    from headrace_engines.rebuilt_plans import RebuiltPlans

__all__ = ["Loaded", "load"]


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
    _check_folder(folder)
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
        on_cpu = Places((), (), 1, str(missing))
        further = _further(folder, rows, Opener(manifest.read(folder), declaration, machine), on_cpu)
        raise DeclarationError([*missing.differences, *further]) from missing
    described = manifest.read(folder)
    if is_plan(declaration) and places.why_no_gpu:
        names = ", ".join(plan_names(folder, described, declaration))
        raise UnsupportedModelError(f"{names}: needs a GPU: {places.why_no_gpu}")
    return _chosen(folder, rows, Opener(described, declaration, machine), places, rebuilt)


def _chosen(
    folder: Path, rows: int, opener: Opener, places: Places, rebuilt: RebuiltPlans | None = None
) -> Loaded:
    replacements = Replacements(folder, opener.manifest, opener.machine, rebuilt)
    version = Choice(folder, opener, places, replacements)
    chosen = version.first_that_batches(rows) or version.first_alone()
    if chosen is None:
        raise version.failure()
    return version.warn(chosen)


def _further(folder: Path, rows: int, opener: Opener, on_cpu: Places) -> tuple[Difference, ...]:
    """Return what else is not as declared where a GPU is missing, so that all is told at once."""
    try:
        _chosen(folder, rows, opener, on_cpu).close()
    except DeclarationError as error:
        return error.differences
    except EngineError:
        return ()  # of files that a GPU would serve this says nothing
    return ()


def _check_folder(folder: Path) -> None:
    """Raise ModelFileError where the folder may not be looked into; what else it lacks is told later."""
    try:
        with os.scandir(folder):
            (folder / manifest.FILE_NAME).stat()  # to list names and to reach what they name are two rights
    except PermissionError as error:
        raise ModelFileError(f"the version's folder cannot be read: {error.strerror or error}") from error
    except OSError:
        return


def _loaded_program(
    folder: Path, file: str, rows: int, declaration: Declaration, placement: Placement
) -> Loaded:
    from headrace_engines.runtime.python import PythonEngine  # most servers execute no programs

    engine = PythonEngine(folder / file, declaration, max_batch_size=rows, version=folder.name)
    held = Held(memory.files_bytes(folder, ()))
    return Loaded(engine, file, (f"{file}: chosen: a program",), held, counts=(placement.on_cpu,))
