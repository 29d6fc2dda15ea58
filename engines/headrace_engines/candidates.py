"""The files of a version folder that may serve, best first, and why the others may not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import manifest
from headrace_engines.declaration import Declaration
from headrace_engines.manifest import FP32, Artefact, Manifest

MODEL: Final = "model.onnx"
PLAN: Final = "model.plan"
PROGRAM: Final = "model.py"
_PYTHON: Final = "python"
TENSORRT: Final = "tensorrt_plan"
_TARGET: Final = "cpu"
NOT_SERVED: Final = {
    PLAN: "needs TensorRT, which is not built into this version",
    PROGRAM: "not needed: the model is in another file",
    "model.pt": "TorchScript is not supported; export it to model.onnx",
    "model.savedmodel": "TensorFlow is not supported; export it to model.onnx",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may serve; `described` is None for one that nobody's manifest tells of."""

    file: str
    described: Artefact | None
    merit: str

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


def best_first(folder: Path, described: Manifest | None, declared: str) -> list[Candidate]:
    """Return the files worth opening: those made for this kind of machine before the one they came from.

    What was made stands in the manifest in the order of its speed. Where a file was declared, that is the
    only one.
    """
    if declared:
        made = {artefact.file: artefact for artefact in described.artefacts} if described else {}
        return _present(folder, Candidate(declared, made.get(declared), "the configuration names it"))
    if described is None:
        return _present(folder, Candidate(MODEL, None, "the only model, as it was put here"))
    fit = [artefact for artefact in described.artefacts if artefact.passed and artefact.target == _TARGET]
    fit.sort(key=lambda artefact: artefact.recipe == FP32)
    return [Candidate(artefact.file, artefact, artefact.reason) for artefact in fit]


def _present(folder: Path, candidate: Candidate) -> list[Candidate]:
    # Whatever else it may be than a file, opening it says what is wrong with it.
    return [candidate] if os.path.lexists(folder / candidate.file) else []


def ruled_out(folder: Path, described: Manifest | None) -> Iterator[tuple[str, str]]:
    """Yield the files that are not worth opening, and why."""
    for name, reason in NOT_SERVED.items():
        if (folder / name).exists():
            yield name, reason
    for artefact in described.artefacts if described else ():
        if not artefact.passed:
            yield artefact.file, f"not good enough: {artefact.reason}"
        elif artefact.target != _TARGET:
            yield artefact.file, f"made for {artefact.target}, and this version runs on {_TARGET} alone"
