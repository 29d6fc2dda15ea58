"""Which file of a version folder serves on this machine, and why.

Candidates are tried best first: what `headrace build` compressed for this kind of machine and found
good enough, then the model as it was trained. One that is damaged, does not match its manifest, or
whose rows would change each other's answers gives way to the next; a version none of whose
artefacts keeps rows apart is served one row at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace_engines import independence, manifest
from headrace_engines.engine import Engine
from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.manifest import FP32, Artefact, Manifest
from headrace_engines.spec import ANY, TensorSpec

_log = logging.getLogger(__name__)

_MODEL = "model.onnx"
_TARGET = "cpu"
_NOT_SERVED = {
    "model.plan": "needs TensorRT, which is not built into this version",
    "model.py": "Python models are not supported",
    "model.pt": "TorchScript is not supported; export it to model.onnx",
    "model.savedmodel": "TensorFlow is not supported; export it to model.onnx",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine ready to serve, the name of the file it runs, and a line for each candidate."""

    engine: Engine
    artefact: str
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file that may serve; `described` is None for one that nobody's manifest tells of."""

    file: str
    described: Artefact | None
    merit: str


def load(folder: Path, *, max_batch_size: int = 64) -> Loaded:
    """Load the best artefact that this machine can run.

    Takes as long as reading the file and some thirty executions of small batches. Raises
    ModelFileError saying what was found and what was expected if nothing can be served.
    """
    version = _Version(folder, manifest.read(folder))
    chosen = version.first_that_batches(max_batch_size) or version.first_alone()
    if chosen is None:
        raise ModelFileError(version.findings())
    version.warn(chosen)
    return chosen


class _Version:
    """A version folder, and what was found out so far about the files in it."""

    def __init__(self, folder: Path, described: Manifest | None) -> None:
        self._folder = folder
        self._manifest = described
        self._candidates = _best_first(folder, described)
        self._against = dict(_ruled_out(folder, described))
        self._refused: dict[str, str] = {}
        self._dependent: list[tuple[_Candidate, str]] = []

    def first_that_batches(self, max_batch_size: int) -> Loaded | None:
        """Return the first candidate that is whole and keeps its rows apart."""
        for position, candidate in enumerate(self._candidates):
            engine = self._opened(candidate, max_batch_size)
            if engine is None:
                continue
            finding = independence.check(engine)
            if finding.independent:
                rest = self._candidates[position + 1 :]
                self._against |= {other.file: f"not needed: {candidate.file} comes first" for other in rest}
                return self._chosen(engine, candidate, candidate.merit)
            engine.close()
            self._refuse(candidate, f"the rows of a batch would change each other: {finding.why}")
            self._dependent.append((candidate, finding.why))
        return None

    def first_alone(self) -> Loaded | None:
        """Return the best candidate that is whole, to be served one row at a time."""
        for candidate, why in self._dependent:
            engine = self._opened(candidate, 1)
            if engine is not None:
                return self._chosen(engine, candidate, f"served one row at a time: in a batch {why}")
        return None

    def findings(self) -> str:
        """Say what is wrong with each file; if there is none that could serve, what was expected."""
        found = "; ".join(f"{file}: {reason}" for file, reason in (self._against | self._refused).items())
        if self._refused:
            return found
        if not found:
            names = sorted(entry.name for entry in self._folder.iterdir()) if self._folder.is_dir() else []
            found = f"found {', '.join(names) or 'no files'}"
        return f"{found}; expected {_MODEL}"

    def warn(self, chosen: Loaded) -> None:
        """Log what should have served and does not; a version that does not serve at all is an error."""
        for file, reason in self._refused.items():
            if file != chosen.artefact:
                _log.warning("%s is not served: %s", self._folder / file, reason)
            else:
                _log.warning("%s is %s", self._folder / file, chosen.why[0].partition(": chosen: ")[2])

    def _opened(self, candidate: _Candidate, max_batch_size: int) -> Engine | None:
        try:
            if candidate.described:
                manifest.verify(self._folder, candidate.described)
            engine = _onnx_engine(self._folder / candidate.file, max_batch_size)
            if candidate.described and self._manifest:
                _check_spec(engine, self._manifest, candidate.file)
        except (ModelFileError, UnsupportedModelError) as error:
            self._refuse(candidate, str(error))
            return None
        return engine

    def _refuse(self, candidate: _Candidate, reason: str) -> None:
        # What comes from below names the file itself.
        self._refused[candidate.file] = reason.removeprefix(f"{candidate.file}: ")

    def _chosen(self, engine: Engine, candidate: _Candidate, merit: str) -> Loaded:
        refused = {file: f"NOT SERVED: {reason}" for file, reason in self._refused.items()}
        against = self._against | refused
        others = [f"{file}: {reason}" for file, reason in against.items() if file != candidate.file]
        return Loaded(engine, candidate.file, (f"{candidate.file}: chosen: {merit}", *others))


def _best_first(folder: Path, described: Manifest | None) -> list[_Candidate]:
    """Return the files worth opening: those made for this kind of machine before the one they came from."""
    if described is None:
        found = os.path.lexists(folder / _MODEL)  # whatever else it may be, it says what is wrong with it
        return [_Candidate(_MODEL, None, "the only model, as it was put here")] if found else []
    fit = [artefact for artefact in described.artefacts if artefact.passed and artefact.target == _TARGET]
    fit.sort(key=lambda artefact: artefact.recipe == FP32)
    return [_Candidate(artefact.file, artefact, artefact.reason) for artefact in fit]


def _ruled_out(folder: Path, described: Manifest | None) -> Iterator[tuple[str, str]]:
    """Yield the files that are not worth opening, and why."""
    for name, reason in _NOT_SERVED.items():
        if (folder / name).exists():
            yield name, reason
    for artefact in described.artefacts if described else ():
        if not artefact.passed:
            yield artefact.file, f"not good enough: {artefact.reason}"
        elif artefact.target != _TARGET:
            yield artefact.file, f"made for {artefact.target}, and this version runs on {_TARGET} alone"


def _onnx_engine(path: Path, max_batch_size: int) -> Engine:
    try:
        from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine  # not everybody serves on a CPU
    except ImportError as error:
        raise UnsupportedModelError(
            f"needs onnxruntime, which cannot be imported ({error}): in a clone, pip install '.[cpu]'"
        ) from error
    return OnnxRuntimeEngine(path, max_batch_size=max_batch_size)


def _check_spec(engine: Engine, described: Manifest, file: str) -> None:
    """Raise ModelFileError, and close the engine, unless it has the tensors that the manifest tells of."""
    for kind, found, expected in (
        ("inputs", engine.spec.inputs, described.inputs),
        ("outputs", engine.spec.outputs, described.outputs),
    ):
        if len(found) != len(expected) or not all(map(_agree, found, expected)):
            engine.close()
            raise ModelFileError(
                f"{file}: its {kind} are {_told(found)}, and {manifest.FILE_NAME} says {_told(expected)}"
            )


def _agree(found: TensorSpec, expected: TensorSpec) -> bool:
    """Whether two specs can be the same tensor; a dimension that one leaves open fits any."""
    return (found.name, found.dtype, len(found.dims)) == (
        expected.name,
        expected.dtype,
        len(expected.dims),
    ) and all(a == b or ANY in (a, b) for a, b in zip(found.dims, expected.dims, strict=True))


def _told(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.dims)}" for tensor in tensors)
