"""The files of a version folder that may serve, best first, and why the others may not."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import manifest
from headrace_engines.declaration import Declaration
from headrace_engines.manifest import FP32, Artefact, Manifest
from headrace_engines.printable import printable
from headrace_engines.standing import CPU_TARGET, Standing

MODEL: Final = "model.onnx"
PLAN: Final = "model.plan"
PROGRAM: Final = "model.py"
TENSORRT: Final = "tensorrt_plan"
_PYTHON: Final = "python"
_ONNX: Final = "onnxruntime_onnx"
_PLANS: Final = ".plan"
_ONNX_SUFFIX: Final = ".onnx"
_GPU_TARGET: Final = "tensorrt"
_QUANTISED: Final = "quantise"
"""How the steps are called that put Q/DQ pairs into a graph."""
_NOT_SERVED: Final = {
    PROGRAM: "not needed: the model is in another file",
    "model.pt": "TorchScript is not supported; export it to model.onnx",
    "model.savedmodel": "TensorFlow is not supported; export it to model.onnx",
}


class Runner(enum.Enum):
    """What executes a file."""

    TENSORRT = "TensorRT"
    CUDA = "ONNX Runtime on a GPU"
    CPU = "ONNX Runtime on the CPU"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may serve; `described` is None for one that nobody's manifest tells of."""

    path: Path
    described: Artefact | None
    merit: str
    runner: Runner = Runner.CPU
    is_rebuilt: bool = False
    """Whether this machine has built the file itself, for one in the version's folder."""

    @property
    def file(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def label(self) -> str:
        """What it is called beside others: a GPU and the CPU may execute the same file."""
        if self.is_rebuilt:
            return f"{self.file}, rebuilt here"
        return f"{self.file} on the GPU" if self.runner is Runner.CUDA else self.file

    @property
    def is_for_gpus(self) -> bool:
        """Whether it is of no use but on a GPU."""
        return self.runner is Runner.TENSORRT or bool(self.described and self.described.target == _GPU_TARGET)

    @property
    def most_rows(self) -> int:
        """The most rows of a batch that its maker says it keeps apart; 0 where nobody sets a bound."""
        return self.described.max_rows if self.described else 0


def program(folder: Path, declaration: Declaration) -> str:
    """Return the name of the program to be served; "" if the model is none."""
    if declaration.platform == _PYTHON:
        return declaration.file or PROGRAM
    if declaration.platform or declaration.file:
        return declaration.file if declaration.file.endswith(".py") and not declaration.platform else ""
    others = (MODEL, manifest.FILE_NAME, PLAN)
    is_alone = not any(os.path.lexists(folder / name) for name in others)
    return PROGRAM if is_alone and os.path.lexists(folder / PROGRAM) else ""


def is_plan(declaration: Declaration) -> bool:
    """Whether nothing but a plan was declared."""
    return declaration.platform == TENSORRT or declaration.file.endswith(_PLANS)


def on_gpu(folder: Path, described: Manifest | None, declaration: Declaration) -> list[Candidate]:
    """Return the files that a GPU may execute, best first: plans, then what ONNX Runtime executes there.

    Of the forms made for TensorRT that gets those without Q/DQ pairs, which it does not fuse.
    """
    if declaration.file:
        runner = Runner.TENSORRT if is_plan(declaration) else Runner.CUDA
        return _declared(folder, described, declaration.file, runner)
    found: list[Candidate] = []
    if declaration.platform != _ONNX:
        found += _plans(folder, described)
    if declaration.platform != TENSORRT:
        found += _for_provider(folder, described)
    return found


def on_cpu(
    folder: Path, described: Manifest | None, known: Sequence[Standing], declaration: Declaration
) -> list[Candidate]:
    """Return the files that the CPU may execute: those made for it before the one they came from.

    `known` has the manifest's artefacts in the order in which they serve. Where a file was declared, that is
    the only one.
    """
    if is_plan(declaration):
        return []
    if declaration.file:
        return _declared(folder, described, declaration.file, Runner.CPU)
    if described is None:
        merit = "the model, as it was put here" if untold(folder) else "the only model, as it was put here"
        return _present(Candidate(folder / MODEL, None, merit))
    fit = [one for one in known if one.may_serve and one.artefact.target == CPU_TARGET]
    fit.sort(key=lambda one: one.artefact.recipe == FP32)
    return [Candidate(folder / one.artefact.file, one.artefact, one.reason) for one in fit]


def ruled_out(
    folder: Path, described: Manifest | None, known: Sequence[Standing], why_no_gpu: str
) -> Iterator[tuple[str, str]]:
    """Yield the files that are not worth opening, and why; `why_no_gpu` is "" where a GPU may be used."""
    for name, reason in _NOT_SERVED.items():
        if (folder / name).exists():
            yield name, reason
    if why_no_gpu and described is None and (folder / PLAN).exists():
        yield PLAN, f"needs a GPU: {why_no_gpu}"
    for standing in known:
        artefact = standing.artefact
        if not artefact.passed:
            yield artefact.file, artefact.reason
        elif not standing.may_serve:
            yield artefact.file, standing.reason
        elif artefact.target not in (CPU_TARGET, _GPU_TARGET):
            yield artefact.file, f"made for {artefact.target}, which nothing here serves"
        elif artefact.target == _GPU_TARGET and why_no_gpu:
            yield artefact.file, f"made for a GPU: {why_no_gpu}"


def why_unused(artefact: Artefact, declaration: Declaration, *, serves_on_cpu: bool) -> str:
    """Say why an artefact that is good is no candidate."""
    if declaration.file:
        return f"the configuration names {declaration.file}"
    if declaration.platform in (TENSORRT, _ONNX) and is_plan(declaration) != _is_made_plan(artefact):
        return f'the configuration says platform: "{declaration.platform}"'
    if artefact.target == CPU_TARGET and not serves_on_cpu:
        return "made for the CPU: the configuration says KIND_GPU"
    return "what a plan is built of"


def untold(folder: Path) -> list[str]:
    """Return the files that a build may have made, and that only a manifest can tell of."""
    entries = folder.iterdir() if folder.is_dir() else ()
    names = sorted(entry.name for entry in entries if entry.suffix in (_PLANS, _ONNX_SUFFIX))
    return [printable(name) for name in names if name not in (MODEL, PLAN)]


def plan_names(folder: Path, described: Manifest | None, declaration: Declaration) -> list[str]:
    """Return what the plans are called that would serve, or the usual name where there are none."""
    if declaration.file:
        return [declaration.file]
    return [candidate.file for candidate in _plans(folder, described)] or [PLAN]


def _plans(folder: Path, described: Manifest | None) -> list[Candidate]:
    if described is None:
        return _present(Candidate(folder / PLAN, None, "a plan, as it was put here", Runner.TENSORRT))
    return _passed(folder, [one for one in described.artefacts if _is_made_plan(one)], Runner.TENSORRT)


def _for_provider(folder: Path, described: Manifest | None) -> list[Candidate]:
    if described is None:
        return _present(Candidate(folder / MODEL, None, "the model, as it was put here", Runner.CUDA))
    quantised = {how.name for how in described.recipes if _QUANTISED in str(how.settings.get("steps", ""))}
    fit = [
        one
        for one in described.artefacts
        if not _is_made_plan(one)
        and ((one.target == _GPU_TARGET and one.recipe not in quantised) or one.recipe == FP32)
    ]
    fit.sort(key=lambda one: one.target != _GPU_TARGET)
    return _passed(folder, fit, Runner.CUDA)


def _passed(folder: Path, artefacts: list[Artefact], runner: Runner) -> list[Candidate]:
    fit = sorted((one for one in artefacts if one.passed), key=lambda one: one.recipe == FP32)
    return [Candidate(folder / one.file, one, one.reason, runner) for one in fit]


def _is_made_plan(artefact: Artefact) -> bool:
    return artefact.target == _GPU_TARGET and artefact.file.endswith(_PLANS)


def _declared(folder: Path, described: Manifest | None, file: str, runner: Runner) -> list[Candidate]:
    made = {artefact.file: artefact for artefact in described.artefacts} if described else {}
    return _present(Candidate(folder / file, made.get(file), "the configuration names it", runner))


def _present(candidate: Candidate) -> list[Candidate]:
    # Whatever else it may be than a file, opening it says what is wrong with it.
    return [candidate] if os.path.lexists(candidate.path) else []
